"""Mixtures of sources that show different things: which rows are blank, and that nothing else of a
batch depends on it."""

import numpy as np
import pytest

from mmjax import config as config_lib
from mmjax import models
from mmjax.data import Record, Texts, mixtures, modalities, open_sources, train_batches
from mmjax.data.modalities import Column, Modality
from mmjax.models import zoo

B = 16


def mixture(parts=("image", "video", "text"), **sources):
    """(config, inputs): a model of these parts, and sources by name → keys over those of
    generated:64."""
    config = config_lib.default()
    config.model = zoo.config("tiny")
    frame = {k: v for k, v in config.model.image.items() if k != "kind"}
    config.model.video = config_lib.entry("model", kind="video_vit", **{**frame, "frames": 2})
    for part in {"image", "video", "text"}.difference(parts):
        del config.model[part]
    config.batch_size = B
    for name, keys in sources.items():
        spec = {"path": "generated:64", **keys}
        config.data.train[name] = config_lib.entry("data.train", **spec)
    return config, models.inputs(config.model)


VIDEO = {"media": "video"}


@pytest.mark.parametrize(
    ("parts", "sources", "expected"),
    [
        (("image", "text"), {"a": {}, "b": {}}, {}),
        (("image", "text"), {"a": VIDEO}, {}),  # nothing shows images: said of the source
        (("image", "video", "text"), {"a": {}, "b": VIDEO}, {"image": {"b"}, "video": {"a"}}),
        (("video", "text"), {"a": {}, "b": VIDEO}, {}),  # an image is a video of one frame
        (("image", "text"), {"a": {}, "b": VIDEO}, {"image": {"b"}}),
        (("image", "text"), {"a": {}, "b": {"without": ("text",)}}, {"text": {"b"}}),
        (("image", "text"), {"a": {}, "b": {"kind": "text"}}, {"image": {"b"}}),
    ],
)
def test_what_a_source_lacks_follows_from_the_config(parts, sources, expected):
    config, inputs = mixture(parts, **sources)
    assert mixtures.lacking(inputs, config.data.train) == expected


def batches(config, inputs, tokenizer, rows=None, count=2, sources=None):
    built = modalities.build(inputs, data=config.data, tokenizer=lambda: tokenizer)
    read = mixtures.in_mixture(built, config.data.train, inputs)
    sources = open_sources(config.data.train) if sources is None else sources
    rows = np.arange(B) if rows is None else rows
    found = train_batches(sources, config, read, rows=rows, start_step=0)
    result = [next(found) for _ in range(count)]
    found.close()
    return result


def test_a_row_has_what_its_source_shows_and_is_blank_where_it_shows_nothing(tokenizer):
    """A part sees, where there is something, what it sees in a model without the others."""
    sources = {"a": {}, "b": {**VIDEO, "weight": 2.0}, "c": {"without": ("text",)}}
    config, inputs = mixture(**sources)
    (batch, _), (image, _), (video, _) = (
        batches(config, {n: inputs[n] for n in parts}, tokenizer)
        for parts in (inputs, ("image", "text"), ("video",))
    )
    there = {part: batch[f"{part}_there"] for part in ("image", "video", "text")}
    assert [there[part].sum() for part in there] == [8, 8, 12]
    np.testing.assert_array_equal(there["image"], ~there["video"])
    assert not (there["video"] & ~there["text"]).any()  # c has images
    np.testing.assert_array_equal(batch["image"], image["image"])
    np.testing.assert_array_equal(
        batch["video"][there["video"]],
        video["video"][there["video"]],  # and images, alone
    )
    assert (batch["image"][~there["image"]] == 0).all()
    assert (batch["video"][~there["video"]] == 0).all()
    assert batch["video_mask"][~there["video"]].all()  # no tower divides by 0 frames
    empty = tokenizer.encode([""], batch["text"].shape[1])
    for name, row in zip(("text", "text_mask"), empty, strict=True):
        assert (batch[name][~there["text"]] == row).all()
    assert "video_there" not in video
    assert "image_there" in image


def test_columns_are_declared_and_rows_do_not_depend_on_who_loads_them(tokenizer):
    config, inputs = mixture(a={}, b=VIDEO)
    built = modalities.build(inputs, data=config.data)
    read = mixtures.in_mixture(built, config.data.train, inputs)
    declared = {n: (c.shape, np.dtype(c.dtype)) for m in read for n, c in m.columns.items()}
    whole = batches(config, inputs, tokenizer)
    for step, batch in enumerate(whole):
        found = {n: (x.shape[1:], x.dtype) for n, x in batch.items() if n in declared}
        assert found == declared
        rows = np.array([1, 6, 7, 12])
        part = batches(config, inputs, tokenizer, rows)[step]
        for name, column in part.items():
            np.testing.assert_array_equal(column, batch[name][rows])


def test_sources_that_all_have_everything_get_no_column(tokenizer):
    config, inputs = mixture(("image", "text"), a={}, b={})
    assert set(batches(config, inputs, tokenizer)[0]) == {
        "image", "text", "text_mask", "label", "group",
    }  # fmt: skip


class Broken(list):
    """Images of which every second cannot be decoded."""

    skipped = {}  # noqa: RUF012

    def __init__(self, name):
        self.name = name
        for number in range(64):
            image = b"no image" if number % 2 else np.full((8, 8, 3), number, np.uint8)
            self.append(Record(f"{number}", {"image": image, "text": Texts(("a",))}, number))

    def captions(self, index):
        return self[index].captions


def test_a_record_that_cannot_be_read_is_replaced_and_not_blank(tokenizer):
    config, inputs = mixture(a={}, b=VIDEO)
    config.data.max_bad = 1.0
    videos = open_sources(config.data.train)[1]
    (batch,) = batches(config, inputs, tokenizer, count=1, sources=[Broken("a"), videos])
    there = batch["image_there"]
    assert there.sum() == 8
    assert (batch["label"][there] % 2 == 0).all()
    assert (batch["image"][there][:, 0, 0, 0] == batch["label"][there]).all()


@modalities.register("video of sound")  # of another floor: what media it reads, it says
class Heard(Modality):
    media = ("video",)
    of = classmethod(lambda cls, name, spec, data, tokenizer: cls())
    columns = property(lambda self: {"sound": Column((3,), np.float32)})

    def read(self, record, draw):
        return np.ones(3, np.float32)


def test_a_part_of_sounds_hears_videos_unless_a_source_says_that_they_are_silent():
    config, _ = mixture(("video",), a={"media": "audio"}, b=VIDEO)
    sounds = {"video": ("video", None), "audio": ("audio", None)}
    assert mixtures.lacking(sounds, config.data.train) == {"video": {"a"}}
    config.data.train.b.without = ("audio",)
    assert mixtures.lacking(sounds, config.data.train) == {"video": {"a"}, "audio": {"b"}}


def test_a_modality_from_outside_says_which_media_it_reads(tokenizer):
    config, inputs = mixture(("image",), a={}, b=VIDEO)
    inputs = {**inputs, "sound": ("video of sound", None)}
    assert mixtures.lacking(inputs, config.data.train) == {"image": {"b"}, "sound": {"a"}}
    (batch,) = batches(config, inputs, tokenizer, count=1)
    np.testing.assert_array_equal(batch["sound"][:, 0], batch["sound_there"])
