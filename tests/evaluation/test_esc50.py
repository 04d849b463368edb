"""Zero-shot classification of sounds in the layout of ESC-50 (Piczak, 2015)."""

import jax
import numpy as np
import pytest
import small_run
import tiny

from mmjax import config as config_lib
from mmjax import evaluation, models
from mmjax.data import open_source
from mmjax.data.sounds import open_sound
from mmjax.models.parts import complete, part
from mmjax.parallel.mesh import make_mesh

soundfile = pytest.importorskip("soundfile")

CATEGORIES = ("red_cat", "blue_dog", "green_sea", "large_moon", "small_tree", "red_moon")
FOLDS, PER_FOLD = 5, 12
SEED = 1  # of weights that are right on some sounds


@pytest.fixture
def esc50(tmp_path):
    """meta/esc50.csv and audio/FOLD-SOURCE-TAKE-TARGET.wav; sounds of a category are alike."""
    (tmp_path / "audio").mkdir()
    (tmp_path / "meta").mkdir()
    sounds = open_source({"path": f"generated:{FOLDS * PER_FOLD}", "media": "audio"})
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for number in range(FOLDS * PER_FOLD):
        fold, target = 1 + number // PER_FOLD, number % len(CATEGORIES)
        name = f"{fold}-{number}-A-{target}.wav"
        wave = open_sound(sounds[number].part("audio"))
        soundfile.write(tmp_path / "audio" / name, wave.read(0, wave.length), wave.rate)
        rows.append(f"{name},{fold},{target},{CATEGORIES[target]},False,{number},A")
    (tmp_path / "meta/esc50.csv").write_text("\n".join(rows) + "\n")
    names = [f"{category}\t{category.replace('_', ' ')}" for category in CATEGORIES]
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n")
    (tmp_path / "prompt.txt").write_text("sound {}\n")
    return tmp_path


def subject():
    """A tiny model of sounds and texts with random weights."""
    config = config_lib.default()
    size = {"width": 32, "depth": 2, "heads": 4, "mlp_dim": 64, "unroll": False}
    audio = part("audio_vit", seconds=1.0, bins=32, pool="mean", **size)
    text = part("transformer", vocab_size=small_run.tokenizer().vocab_size, context_length=16,
                **size)  # fmt: skip
    config.model = complete({"embed_dim": 16, "audio": audio, "text": text, "logit": part("scale")})
    config.objectives.clip = config_lib.entry("objectives", of=("audio", "text"))
    model = models.from_config(config.model)
    tokenizer = small_run.tokenizer()
    return model, tiny.params(model, seed=SEED), evaluation.Subject.of(config, model, tokenizer)


@pytest.mark.parametrize("fold", [0, 5])
def test_a_fold_of_esc50_equals_one_plain_batch(esc50, fold):
    model, params, told = subject()
    spec = {
        "kind": "classification", "path": str(esc50 / "meta/esc50.csv"), "media": "audio",
        "label": "category", "classes": str(esc50 / "classes.txt"),
        "templates": str(esc50 / "prompt.txt"), "batch_size": 8,
        "filter": f"fold == {fold}" if fold else "",
    }  # fmt: skip
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        found = evaluation.build("esc50", spec, told)(params)
    waves, labels = [], []
    for file in sorted((esc50 / "audio").glob(f"{fold or '*'}-*.wav")):
        waves.append(soundfile.read(file, dtype="float32")[0])
        labels.append(int(file.stem.split("-")[-1]))
    prompts = [f"sound {category.replace('_', ' ')}" for category in CATEGORIES]
    ids, mask = small_run.tokenizer().encode(prompts, 16)
    batch = {"audio": np.stack(waves), "text": ids, "text_mask": mask}
    embeds = small_run.apply(model)({"params": params}, batch, ("audio/embed", "text/embed"))
    scores = np.asarray(embeds["audio/embed"]) @ np.asarray(embeds["text/embed"]).T
    rank = (np.argsort(-scores, axis=1) == np.array(labels)[:, None]).argmax(axis=1)
    assert len(labels) == (PER_FOLD if fold else FOLDS * PER_FOLD)
    assert found["top1"] == pytest.approx(np.mean(rank == 0))
    assert found["top5"] == pytest.approx(np.mean(rank < 5))
    assert found["examples"] == len(labels)
    assert 0 < found["top1"] < 1
