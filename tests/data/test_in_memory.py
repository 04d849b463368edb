"""Records that a program has itself: every form of them, and a sentence for what is none."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from mmjax.data import BadRecord, Record, Texts, from_records, open_source
from mmjax.data.identity import identity
from mmjax.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)


def opened(records, name="mine"):
    return open_source({"path": from_records(records, name)})


@pytest.fixture
def file(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "it.png")
    return tmp_path / "it.png"


def test_every_form_of_a_record(file):
    png = file.read_bytes()
    same = Image.fromarray(RGB)
    records = [
        (RGB, "a cat"), [same, "a cat"], (file, "a cat"), (str(file), ["a cat"]), (png, "a cat"),
        {"image": RGB, "text": "a cat"}, {"image": same, "caption": " a cat "},
        {"image": RGB, "captions": ("a cat", None)},
        Record("k", {"image": RGB, "text": Texts(("a cat",))}),
    ]  # fmt: skip
    source = opened(records)
    assert len(source) == len(records)
    for number in range(len(source)):
        record = source[number]
        assert record.captions == source.captions(number) == ("a cat",)
        image = record.parts["image"]
        if isinstance(image, bytes):
            image = np.asarray(Image.open(io.BytesIO(image)))
        np.testing.assert_array_equal(image, RGB)
        assert (record.label, record.group) == (-1, -1)


def test_other_images_texts_and_numbers():
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    source = opened([{"image": gray, "label": np.int64(3), "group": "7"}, {"image": RGB}])
    np.testing.assert_array_equal(source[0].parts["image"], np.stack([gray] * 3, axis=2))
    assert (source[0].label, source[0].group) == (3, 7)
    np.testing.assert_array_equal(source.labels, [3, -1])
    assert opened(["one text", "another"])[1].captions == ("another",)
    np.testing.assert_array_equal(opened([RGB[None, 0], RGB])[1].parts["image"], RGB)
    np.testing.assert_array_equal(opened(np.stack([RGB, RGB]))[1].parts["image"], RGB)
    sound = opened([{"signal": np.ones(4), "text": "beep"}])[0]
    np.testing.assert_array_equal(sound.parts["signal"], np.ones(4))


def test_an_iterable_is_taken_whole_and_a_data_set_record_by_record():
    assert len(opened((RGB, str(n)) for n in range(1, 4))) == 3
    assert len(opened(zip([RGB], ["a"], strict=True))) == 1

    class Lazy:
        """As data sets of PyTorch and Hugging Face."""

        read = 0

        def __len__(self):
            return 1000

        def __getitem__(self, number):
            Lazy.read += 1
            if number == 5:
                raise OSError("a damaged shard")
            return {"image": RGB, "text": f"number {number}"}

    source = opened(Lazy())
    assert len(source) == 1000
    assert Lazy.read < 3
    assert source[999].captions == ("number 999",)
    with pytest.raises(BadRecord, match="record 5: a damaged shard"):
        source[5]


def test_what_is_no_record_is_left_out_and_named():
    source = opened([(RGB, "a"), (RGB,), 3, {"image": None, "text": "b"}, (RGB, {"a": 1}),
                     {"label": "x"}, {"text": "a", "caption": "b"}, (RGB, "last")])  # fmt: skip
    assert [source.captions(n) for n in range(len(source))] == [("a",), ("last",)]
    assert sum(source.skipped.values()) == 6
    reasons = source.account.reasons()
    for said in ("is a tuple of 1: give", "is a int: give", "has no image", "has a text that",
                 "has no integer as its label: 'x'", "has both text and caption",
                 "number 4"):  # fmt: skip
        assert said in reasons
    odd = opened([(RGB, "a"), (np.zeros((2, 2, 3)), "floats"), (3, "no image"), ("no.jpg", "b")])
    for number, said in ((1, r"is float64 \[2, 2, 3\]: give uint8"), (2, "an image that is a int"),
                         (3, r"no\.jpg: No such file")):  # fmt: skip
        with pytest.raises(BadRecord, match=said):
            odd[number]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no record among"),
        (iter(()), "no record among"),
        ("a text", "records of type str: give a list"),
        ({"image": RGB}, "records of type dict: give a list"),
        ([3], r"records\[0\] is a int: give \(image, text\)"),
        ([(RGB, "a", 3)], r"records\[0\] is a tuple of 3"),
    ],
)
def test_what_are_no_records(records, message):
    with pytest.raises(UserError, match=message):
        from_records(records)


def test_a_table_of_columns_is_refused():
    class Frame:  # as pandas indexes: by column
        def __len__(self):
            return 2

        def __getitem__(self, key):
            raise KeyError(key)

    with pytest.raises(UserError, match=r'KeyError: 0.*to_dict\("records"\)'):
        from_records(Frame())


def test_records_of_another_process_are_named():
    with pytest.raises(UserError, match=r"records:gone are records of another process: .*'gone'"):
        open_source({"path": "records:gone"})


def test_the_same_records_have_the_same_fingerprint():
    first = identity(opened([(RGB, "a"), (RGB, "b")]))
    assert first == identity(opened([(Image.fromarray(RGB), "a"), (RGB.copy(), "b")], "other"))
    assert first != identity(opened([(RGB, "a"), (RGB // 2, "b")]))
    assert first != identity(opened([(RGB, "a"), (RGB, "c")]))
    source = pickle.loads(pickle.dumps(opened([(RGB, "a")])))
    assert source[0].captions == ("a",)
