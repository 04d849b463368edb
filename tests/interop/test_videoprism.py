"""VideoPrismClipModel of transformers: in, the same numbers and gradients, out, the same bits."""

import functools
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny
from pytorch import torch, transformers

from mmjax import models
from mmjax.data.tokenize import load_tokenizer
from mmjax.errors import UserError
from mmjax.interop import registry
from mmjax.interop.formats import shapes
from mmjax.interop.huggingface import videoprism
from mmjax.interop.table import to_theirs
from mmjax.models import zoo
from mmjax.models.parts import check_model

SIZE, FRAMES, LENGTH, VOCAB, ROWS = 16, 3, 9, 64, 4
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
EMBEDS = {"video/embed": "video_embeds", "text/embed": "text_embeds"}


def make(**video):
    """A small random model in eval mode, every parameter away from zero, logits near their cap."""
    torch.manual_seed(0)
    video = {
        **TOWER, "image_size": SIZE, "num_frames": FRAMES, "tubelet_size": [1, 4, 4],
        "num_spatial_layers": 2, "num_temporal_layers": 2, "num_auxiliary_layers": 1,
        "attn_logit_softcapping": 2.0,
    } | video  # fmt: skip
    text = {
        **TOWER, "num_hidden_layers": 2, "vocab_size": VOCAB, "max_position_embeddings": LENGTH,
        "attn_logit_softcapping": 2.0,
    }  # fmt: skip
    config = transformers.VideoPrismConfig(vision_config=video, text_config=text)
    model = transformers.VideoPrismClipModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def batch():
    rng = np.random.default_rng(1)
    lengths = np.array([1, 4, LENGTH, 6])
    mask = np.arange(LENGTH) < lengths[:, None]
    text = np.where(mask, rng.integers(3, VOCAB, (ROWS, LENGTH)), 0)
    video = rng.integers(0, 256, (ROWS, FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    return {
        "video": video // np.uint8([1, 2, 4, 8])[:, None, None, None, None],
        "video_mask": np.ones((ROWS, FRAMES), bool),
        "text": text.astype(np.int32),
        "text_mask": mask,
    }


def theirs(model, batch):
    video = torch.tensor(batch["video"].transpose(0, 1, 4, 2, 3).astype(np.float32) / 255)
    return model(
        pixel_values_videos=video,
        input_ids=torch.tensor(batch["text"]).long(),
        attention_mask=torch.tensor(batch["text_mask"]).long(),
    )


@functools.cache
def _applied(model):
    run = functools.partial(model.apply, outputs=tuple(EMBEDS))
    return jax.jit(run, compiler_options=tiny.QUICK)


def ours(config, params, batch):
    config.model.video.unroll = config.model.text.unroll = False
    found = _applied(models.from_config(config.model))({"params": params}, batch)
    return jax.tree.map(np.asarray, found)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videoprism") / "in"
    model = make()
    model.save_pretrained(folder)
    return model, folder


def read(folder):
    weights = registry.open_weights(folder)
    return weights.config, weights.read(shapes(weights.config.model))


def test_in_and_out_again(tmp_path, saved):
    model, folder = saved
    config, params = read(folder)
    assert (config.data.resize, config.data.interpolation) == ("squash", "bicubic")
    found, expected = ours(config, params, batch()), theirs(model, batch())
    for name, of_theirs in EMBEDS.items():
        values = expected[of_theirs].detach().numpy()
        assert np.abs(values[0] - values[1]).max() > 0.01
        np.testing.assert_allclose(found[name], values, atol=1e-5, rtol=0, err_msg=name)

    registry.export(tmp_path / "out", "huggingface", config=config, params=params)
    before, after = (
        safetensors.numpy.load_file(path / "model.safetensors")
        for path in (folder, tmp_path / "out")
    )
    assert set(after) == set(before)
    for key, array in before.items():
        assert after[key].dtype == array.dtype
        np.testing.assert_array_equal(after[key], array, err_msg=key)
    again, report = transformers.VideoPrismClipModel.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report.values()), report
    second = theirs(again.eval(), batch())
    for of_theirs in EMBEDS.values():
        torch.testing.assert_close(second[of_theirs], expected[of_theirs], atol=0, rtol=0)


def test_gradients_are_theirs(saved):
    model, folder = saved
    config, params = read(folder)
    config.model.video.unroll = config.model.text.unroll = False
    weights = np.random.default_rng(2).normal(size=(2, ROWS, 32)).astype(np.float32)
    graph = models.from_config(config.model)

    def loss(params):
        found = graph.apply({"params": params}, batch(), tuple(EMBEDS))
        return sum((found[name] * w).sum() for name, w in zip(EMBEDS, weights, strict=True))

    gradient = jax.jit(jax.grad(loss), compiler_options=tiny.QUICK)(params)
    found = to_theirs(gradient, videoprism.rows(config.model), shapes(config.model))
    model.zero_grad()
    output = theirs(model, batch())
    pairs = zip(EMBEDS.values(), weights, strict=True)
    sum((output[name] * torch.tensor(w)).sum() for name, w in pairs).backward()
    expected = {name: p.grad.numpy() for name, p in model.named_parameters()}
    size = np.sqrt(sum((g**2).sum() for g in expected.values()))
    for name, g in expected.items():
        assert np.linalg.norm(found[name] - g) <= 1e-5 * size, name


def test_frames_that_are_padding_change_nothing_and_one_frame_is_an_image(saved):
    config, params = read(saved[1])
    inputs = batch() | {"video_mask": np.arange(FRAMES) < np.array([[1], [2], [3], [1]])}
    found = ours(config, params, inputs)["video/embed"]
    seen = inputs["video_mask"][:, :, None, None, None]
    changed = inputs | {"video": np.where(seen, inputs["video"], 255 - inputs["video"])}
    np.testing.assert_array_equal(ours(config, params, changed)["video/embed"], found)
    image = {k: v for k, v in inputs.items() if k != "video_mask"} | {
        "video": inputs["video"][:, 0]
    }
    alone = ours(config, params, image)["video/embed"]
    np.testing.assert_allclose(alone[[0, 3]], found[[0, 3]], atol=1e-6)


def test_less_padding_of_texts_gives_the_same(saved):
    config, params = read(saved[1])
    whole = batch()
    short = {k: v[:2, :5] if k.startswith("text") else v[:2] for k, v in whole.items()}
    found = ours(config, params, short)["text/embed"]
    np.testing.assert_allclose(found, ours(config, params, whole)["text/embed"][:2], atol=1e-6)


def test_a_scale_of_training_comes_back(tmp_path, saved):
    config, params = read(saved[1])
    config.model = models.parts.complete({**config.model.to_dict(), "logit": {"kind": "scale"}})
    params = params | {"logit_scale": np.float32(3.0)}
    registry.export(tmp_path / "out", "huggingface", config=config, params=params)
    again, found = read(tmp_path / "out")
    assert again.model.logit.kind == "scale"
    jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("video", "softcap", 0.0, r"video\.softcap=0, which transformers divides by"),
        ("text", "position", "learned", r"text\.position='learned' would come back as 'sincos'"),
        ("text", "centred_norms", False, r"text\.centred_norms=False would come back as True"),
    ],
)
def test_what_it_cannot_hold_is_said(saved, part, key, value, said):
    config, _ = read(saved[1])
    config.model[part][key] = value
    with pytest.raises(UserError, match=f"cannot hold this model: .*{said}"):
        videoprism.MODEL.family.write({}, config.model)


def test_another_preparation_of_frames_is_refused(tmp_path, saved):
    (tmp_path / "video_preprocessor_config.json").write_text(
        json.dumps({"do_center_crop": True, "resample": 1})
    )
    with pytest.raises(UserError, match=r"so \(resample=1, do_center_crop=True\): it squashes"):
        videoprism.read_preprocessor(tmp_path, read(saved[1])[0].model)


def test_texts_are_sentences_of_pieces_without_an_end(tmp_path):
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", "\u2581a", "\u2581cat", ".", "\u2581dog", "s"]
    words = transformers.VideoPrismTokenizer(
        vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0
    )
    words.save_pretrained(tmp_path / "words")
    tokenizer = videoprism.MODEL.words(tmp_path / "words")
    texts = ["A  Cat!", "a_dog's", "", "a cat a cat a cat"]
    clean = ["a cat.", "a dog s.", ".", "a cat a cat a cat."]
    expected = words(
        clean, padding="max_length", max_length=6, truncation=True, return_tensors="np"
    )
    ids, mask = tokenizer.encode(texts, 6)
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["attention_mask"])
    tokenizer.save(tmp_path / "again")  # with its cleaning, and without an end
    np.testing.assert_array_equal(load_tokenizer(tmp_path / "again").encode(texts, 6)[0], ids)


@pytest.mark.parametrize("name", ["VideoPrism-LvT-B", "VideoPrism-LvT-L"])
def test_named_architectures_are_the_published_ones(name):
    model = zoo.config(name)
    check_model(model)
    with torch.device("meta"):
        settings = videoprism.write_config(model, None)
        theirs = transformers.VideoPrismClipModel(settings).state_dict()
    found = {n: x.shape for n, x in to_shapes(model).items()}
    assert found.pop("logit_scale") == ()
    expected = {n: tuple(x.shape) for n, x in theirs.items() if not n.endswith("position_ids")}
    assert found == expected


def to_shapes(model):
    from mmjax.interop.table import their_shapes

    return their_shapes(videoprism.rows(model), shapes(model))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 36}, r"video\.width=36 must equal config\.model\.embed_dim=768"),
        ({"mlp_dim": 50}, r"heads=12 does not divide mlp_dim=50"),
        ({"patch_size": 300}, r"patch_size=300 is larger than a frame"),
    ],
)
def test_what_does_not_fit_is_a_sentence(changes, said):
    model = zoo.config("VideoPrism-LvT-B")
    model.video.update(changes)
    with pytest.raises(UserError, match=said):
        check_model(model)
