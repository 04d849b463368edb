"""What readers of one example share, and a modality from outside of the package."""

import pickle

import numpy as np
import pytest
from pictures import encode, picture, train_transform
from reading import reads, settings

from mmjax import models
from mmjax.data import (
    Address,
    Augment,
    BadRecord,
    Record,
    Texts,
    eval_batches,
    modalities,
    open_source,
    train_batches,
    train_columns,
)
from mmjax.data import augment as augment_lib
from mmjax.data.draw import Draw, example_rng
from mmjax.data.modalities import Column, Image, Modality, Text
from mmjax.errors import UserError

COLOURFUL = Augment(
    (0.4, 0.9), (0.75, 4 / 3), "square", 0.5, 0.0, 0.0, 0.4, 0.4, 0.4, 0.1, 0.1, "random"
)
AT = Address(0, 3, 5)


def record(**parts):
    image = encode(picture(3, 300, 280), "JPEG", quality=95)
    return Record("a", {"image": image, "text": Texts(("one", "two", "three")), **parts})


@pytest.fixture
def decodes(monkeypatch):
    """(reduction, fast) of every decode."""
    found, decode = [], augment_lib.decode

    def counted(data, *how):
        found.append(how)
        return decode(data, *how)

    monkeypatch.setattr(augment_lib, "decode", counted)
    return found


@pytest.mark.parametrize("augment", [Augment(), COLOURFUL])
@pytest.mark.parametrize(("sizes", "count"), [((60, 56, 60), 1), ((60, 130), 2)])
def test_readers_of_one_image_share_its_decode_and_its_crop(decodes, augment, sizes, count):
    """Pixels are those of decoding anew for each size, after the draw of a caption."""
    draw, shown = Draw(7, AT, record()), []
    for size in sizes:
        shown.append(Image("image", size, augment=augment).read(record(), draw))
    assert len(decodes) == count
    for size, image in zip(sizes, shown, strict=True):
        rng = example_rng(7, AT)
        rng.integers(3)
        expected = train_transform(record().parts["image"], rng, size, augment)
        np.testing.assert_array_equal(image, expected)


def test_a_crop_does_not_depend_on_who_reads_the_captions(tokenizer):
    image, text = Image("image", 32, augment=COLOURFUL), Text("text", 8, tokenizer)
    draw = Draw(7, AT, record())
    alone = image.read(record(), draw)
    other = Draw(7, AT, record())
    caption = text.read(record(), other)
    assert caption == record().captions[example_rng(7, AT).integers(3)]
    np.testing.assert_array_equal(image.read(record(), other), alone)
    other.rng("signal").random(9)  # a field of its own
    assert other.rng("signal").random() != draw.rng("signal").random()


def test_only_what_is_read_is_made(tmp_path, tokenizer):
    """Images without captions, and captions whose images cannot be decoded."""
    bad = Record("a", {"image": b"no image", "text": Texts(("one",))})
    bare = Record("b", {"image": record().parts["image"]})
    image, text = Image("image", 32), Text("text", 8, tokenizer)
    for draw in (None, Draw(0, AT, bad)):
        assert text.read(bad, draw) == "one"
        with pytest.raises(BadRecord, match="a cannot be decoded"):
            image.read(bad, draw)
    assert image.read(bare, Draw(0, AT, bare)).shape == image.read(bare, None).shape == (32, 32, 3)
    with pytest.raises(BadRecord, match="b is without a caption"):
        text.read(bare, Draw(0, AT, bare))
    assert text.read(bare, None) is None
    with pytest.raises(BadRecord, match="c is without image"):
        image.read(Record("c", {}), None)


@pytest.mark.parametrize("towers", [("image",), ("text",), ("image", "text")])
def test_a_batch_has_the_columns_that_were_declared(tokenizer, towers):
    config = settings(4, 16, 8)
    for absent in {"image", "text"}.difference(towers):
        del config.model[absent]
    source, read = open_source({"path": "generated:8"}), reads(config, tokenizer)
    batches = train_batches([source], config, read, rows=np.arange(4), start_step=0)
    batch = next(batches)
    batches.close()
    declared = {name: (shape, np.dtype(d)) for name, (shape, d) in train_columns(read).items()}
    assert {name: (x.shape[1:], x.dtype) for name, x in batch.items()} == declared
    (walked, _) = eval_batches(source, read, batch_size=4, rows=np.arange(4))
    assert {name: (walked[name].shape[1:], walked[name].dtype) for name in declared} == declared
    dummy = models.dummy_batch(models.from_config(config.model))
    made = {name: (x.shape[1:], x.dtype) for name, x in dummy.items()}
    assert made == {name: of for name, of in declared.items() if name not in ("label", "group")}


@modalities.register("cut of a signal")  # every module's kinds are there in all tests
class Signal(Modality):
    """A random cut of the field "signal", a 1-D series."""

    def __init__(self, name, length):
        self.name, self.length = name, length

    @classmethod
    def of(cls, name, spec, data, tokenizer):
        return cls(name, spec["length"])

    @property
    def columns(self):
        return {self.name: Column((self.length,), np.float32)}

    def read(self, record, draw):
        series = record.part("signal")
        room = len(series) - self.length
        if room < 0:
            raise BadRecord(f"{record.key} is too short")
        start = 0 if draw is None else draw.rng("signal").integers(room + 1)
        return np.asarray(series[start : start + self.length], np.float32)


class Series:
    """Series of which one is too short, with captions."""

    name, skipped = "series", {}

    def __len__(self):
        return 8

    def __getitem__(self, index):
        series = index * 100 + np.arange(3 if index == 2 else 20)
        return Record(f"{index}", {"signal": series, "text": Texts((f"number {index}",))}, index)

    def captions(self, index):
        return self[index].captions


def test_a_modality_from_outside_is_read_beside_the_others(tokenizer):
    config = settings(8, 16, 8, max_bad=1.0)
    inputs = {"sound": ("cut of a signal", {"length": 5}), **models.inputs(config.model)}
    del inputs["image"]
    read = modalities.build(inputs, data=config.data, tokenizer=lambda: tokenizer)
    assert list(read) == ["sound", "text"]
    assert pickle.loads(pickle.dumps(read["sound"])).columns == read["sound"].columns
    batches = train_batches([Series()], config, read.values(), rows=np.arange(8), start_step=0)
    first, second = next(batches), next(batches)
    batches.close()
    assert sorted(first["label"]) == [0, 1, 3, 3, 4, 5, 6, 7]  # 3 stands in for 2
    assert first["sound"].shape == (8, 5)
    np.testing.assert_array_equal(first["sound"][:, 0] // 100, first["label"])
    assert len({*(first["sound"][:, 0] % 100), *(second["sound"][:, 0] % 100)}) > 3
    ids, _ = tokenizer.encode([f"number {n}" for n in first["label"]], 8)
    np.testing.assert_array_equal(first["text"], ids)
    (walked,) = eval_batches(Series(), read.values(), batch_size=8, rows=np.arange(8))
    assert walked["unreadable"].tolist() == [n == 2 for n in range(8)]
    assert walked["sound"][3].tolist() == [300, 301, 302, 303, 304]
    with pytest.raises(UserError, match=r"model\.sound: no modality 'imge'; .* 'image'"):
        modalities.build({"sound": ("imge", {})})


BAG = 3


class Spoken(list):
    """Records of which the n-th has n % 5 captions, nearest first."""

    name, skipped = "spoken", {}

    def __init__(self):
        super().__init__(
            Record(f"{n}", {"text": Texts(tuple(f"{k} of {n}" for k in range(n % 5)))})
            for n in range(10)
        )

    captions = lambda self, index: self[index].captions  # noqa: E731


def test_a_bag_is_the_first_captions_of_a_record_and_what_it_lacks_is_marked(tokenizer):
    read = modalities.Captions("text", 12, tokenizer, (6, 9), bag=BAG)
    items = [read.read(record, None) for record in Spoken()]
    batch = read.batch([*items, None])
    assert batch["text"].shape == batch["text_mask"].shape == (11, BAG, 6)  # trimmed
    lengths = [min(n % 5, BAG) for n in range(10)]
    np.testing.assert_array_equal(batch["text_there"].sum(axis=1), [*lengths, 0])
    for n, length in enumerate(lengths):
        texts = [f"{k} of {n}" for k in range(length)] + [""] * (BAG - length)
        ids, mask = tokenizer.encode(texts, 6)
        np.testing.assert_array_equal(batch["text"][n], ids)
        np.testing.assert_array_equal(batch["text_mask"][n], mask)
    assert batch["text_mask"].any(axis=2).all()  # no text is empty: towers divide by lengths
    declared = {n: (c.shape, np.dtype(c.dtype)) for n, c in read.columns.items()}
    full = modalities.Captions("text", 12, tokenizer, bag=BAG).batch(items)
    assert {n: (x.shape[1:], x.dtype) for n, x in full.items()} == declared
