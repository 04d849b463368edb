"""`mmjax embed` with teachers that read images, texts, or both: each row is of its own record."""

import jax
import numpy as np
import pytest
import tiny
from PIL import Image

from mmjax import config as config_lib
from mmjax import embedding, models
from mmjax.data import Address, BadRecord, modalities, open_source
from mmjax.data.draw import Draw
from mmjax.models import zoo
from mmjax.parallel import mesh as mesh_lib
from mmjax.teachers import cached
from mmjax.teachers.teacher import open_teachers

RECORDS, COPIES = 7, 2
NO_IMAGE, NO_CAPTION = 2, 4


@pytest.fixture
def table(tmp_path):
    """Seven rows; the image of one is none, another has no caption."""
    rng, lines = np.random.default_rng(0), ["image,caption,class"]
    for n in range(RECORDS):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(tmp_path / f"{n}.png")
        lines.append(f"{n}.png,{'' if n == NO_CAPTION else f'picture number {n}'},{n}")
    (tmp_path / f"{NO_IMAGE}.png").write_text("no image")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    return str(tmp_path / "pairs.csv")


@pytest.mark.parametrize(
    ("towers", "bad"),
    [
        (("image",), {NO_IMAGE}),
        (("text",), {NO_CAPTION}),
        (("image", "text"), {NO_IMAGE, NO_CAPTION}),
    ],
)
def test_every_row_is_of_its_own_record(table, tmp_path, monkeypatch, towers, bad):
    architecture = tiny.config().model
    architecture.text.update(vocab_size=600, context_length=12)
    for other in {"image", "text"} - set(towers):
        del architecture[other]
    config = tiny.config()
    monkeypatch.setattr(zoo, "config", lambda _: architecture.copy_and_resolve_references())
    config.batch_size = 8
    config.data.update(copies=COPIES, workers=0, tokenizer="captions:560")
    config.data.augment.crop_scale = (0.3, 0.8)
    config.data.train.pairs = config_lib.entry("data.train", path=table, label="class")
    config.teachers.big = config_lib.entry("teachers", source="random:any", dtype="float32")
    embedding.embed(config, str(tmp_path / "out"))

    source = open_source(config.data.train.pairs, "pairs")
    (teacher,) = open_teachers(config)
    params, _ = teacher.load(mesh_lib.make_mesh())
    apply = jax.jit(teacher.model.apply, static_argnums=2)
    tokenizer = embedding.make_tokenizer(config, [source], None)
    read = modalities.build(
        models.inputs(architecture), data=config.data, tokenizer=lambda: tokenizer
    ).values()
    for tower in towers:
        output = f"{tower}/embed"
        stored = np.load(cached.shard_path(tmp_path / "out" / "big", output, 0))
        assert stored.shape == (COPIES * RECORDS, architecture.embed_dim)
        for row, embed in enumerate(stored):
            copy, number = divmod(row, RECORDS)
            draw = Draw(config.seed, Address(0, copy, number), source[number])
            if number in bad:
                assert np.isnan(embed).all()
                with pytest.raises(BadRecord):
                    [m.read(source[number], draw) for m in read]
                continue
            columns = {}
            for modality in read:
                columns |= modality.batch([modality.read(source[number], draw)])
            expected = apply({"params": params}, columns, (output,))[output]
            np.testing.assert_allclose(embed, expected[0], atol=1e-5)
        good = stored[~np.isnan(stored[:, 0])]
        distinct = len(good) if tower == "image" else len(good) // COPIES  # one caption each
        assert len(np.unique(good.round(4), axis=0)) == distinct
