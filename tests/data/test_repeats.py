"""Five keys or rows of one image are one image with five captions, whatever the format."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encode, picture, write_tar

from mmjax.data import BadRecord, open_source, repeats
from mmjax.data.array_record import write_array_record
from mmjax.data.records import Record, Texts

IMAGES = [encode(picture(n)) for n in range(5)]
ORDER = [n for m in range(5) for n in range(5) if m or n != 4] + [4]  # 25 captions, not in order
TEXTS = [f"thing {n}, said {m}" for m, n in enumerate(ORDER)]
EXPECTED = {
    IMAGES[n]: tuple(t for t, o in zip(TEXTS, ORDER, strict=True) if o == n) for n in range(5)
}


def tar(folder, shards=3):
    members = [(f"{k:05d}.png", IMAGES[n]) for k, n in enumerate(ORDER)]
    members += [(f"{k:05d}.txt", text.encode()) for k, text in enumerate(TEXTS)]
    for shard in range(shards):
        write_tar(folder / f"{shard}.tar", [m for m in members if int(m[0][:5]) % shards == shard])
    return folder


def csv(folder):
    for n, image in enumerate(IMAGES):
        (folder / f"{n}.png").write_bytes(image)
    rows = [f'{n}.png,"{text}"' for n, text in zip(ORDER, TEXTS, strict=True)]
    (folder / "a.csv").write_text("\n".join(["image,caption", *rows]))
    return folder / "a.csv"


def parquet(folder):
    table = {"image": [IMAGES[n] for n in ORDER], "caption": TEXTS}
    pq.write_table(pa.table(table), folder / "a.parquet", row_group_size=4)
    return folder


def array_record(folder):
    records = [Record("", {"image": IMAGES[n], "text": Texts((text,))})
               for n, text in zip(ORDER, TEXTS, strict=True)]  # fmt: skip
    write_array_record(folder / "a.array_record", records)
    return folder


@pytest.mark.parametrize("write", [tar, csv, parquet, array_record])
def test_records_of_one_image_are_one(tmp_path, write):
    path = str(write(tmp_path))
    for _ in range(2):  # the second time from the index
        source = pickle.loads(pickle.dumps(open_source({"path": path})))
        assert len(source) == 5
        found = {source[n].parts["image"]: source[n].captions for n in range(5)}
        assert {image: sorted(c) for image, c in found.items()} == {
            image: sorted(c) for image, c in EXPECTED.items()
        }
        assert [source.captions(n) for n in range(5)] == [source[n].captions for n in range(5)]
        assert not source.skipped
    if write is not csv:
        assert any("20 of 25 records repeat the image" in line for line in source.account.found)


def test_labels_and_groups_keep_records_apart(tmp_path):
    members = []
    for key, (image, label) in enumerate([(0, 1), (0, 1), (0, 2), (1, 1)]):
        members += [(f"{key}.png", IMAGES[image]), (f"{key}.txt", f"text {key}".encode()),
                    (f"{key}.json", json.dumps({"label": label}).encode())]  # fmt: skip
    write_tar(tmp_path / "0.tar", members)
    source = open_source({"path": str(tmp_path), "label": "label"})
    assert [(source[n].label, source[n].captions) for n in range(3)] == [
        (1, ("text 0", "text 1")), (2, ("text 2",)), (1, ("text 3",))
    ]  # fmt: skip


def test_images_of_classes_are_counted_each(tmp_path):
    members = [(f"{k}.png", IMAGES[n]) for k, n in enumerate((0, 0, 1))]
    members += [(f"{k}.cls", b"1") for k in range(3)]
    write_tar(tmp_path / "0.tar", members)
    assert len(open_source({"path": str(tmp_path), "label": "cls"})) == 3


def test_what_repeats_the_caption_too_or_is_everywhere_stays(tmp_path):
    members = [m for k, n in enumerate((0, 0, 1))
               for m in ((f"{k}.png", IMAGES[n]), (f"{k}.txt", b"hello"))]  # fmt: skip
    write_tar(tmp_path / "0.tar", members)
    assert len(open_source({"path": str(tmp_path)})) == 3
    same = [m for k in range(3)
            for m in ((f"{k}.png", IMAGES[0]), (f"{k}.txt", f"{k}".encode()))]  # fmt: skip
    write_tar(tmp_path / "0.tar", same)
    assert len(open_source({"path": str(tmp_path)})) == 3


def test_equal_ends_are_not_equal_images(tmp_path):
    """Only candidates: the bytes decide."""
    other = bytearray(IMAGES[0])
    other[40] ^= 1
    members = [m for k, image in enumerate((IMAGES[0], bytes(other), IMAGES[1]))
               for m in ((f"{k}.png", image), (f"{k}.txt", f"{k}".encode()))]  # fmt: skip
    write_tar(tmp_path / "0.tar", members)
    assert len(open_source({"path": str(tmp_path)})) == 3


def test_weights_go_with_their_captions(tmp_path):
    members = []
    for key, image in enumerate((0, 1, 0)):
        alt = json.dumps({"alt": [f"a{key}", f"b{key}"]}).encode()
        members += [(f"{key}.png", IMAGES[image]), (f"{key}.txt", f"t{key}".encode())]
        members.append((f"{key}.json", alt))
    write_tar(tmp_path / "0.tar", members)
    spec = {"path": str(tmp_path), "caption": "txt,json:alt", "caption_weights": (0.5, 3)}
    source = open_source(spec)
    assert source[0].parts["text"] == Texts(
        ("t0", "a0", "b0", "t2", "a2", "b2"), (0.5, 1.5, 1.5) * 2
    )
    assert source[1].captions == ("t1", "a1", "b1")


def test_too_much_to_look_through_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(repeats, "LOOK_THROUGH", 10)
    source = open_source({"path": str(parquet(tmp_path))})
    assert len(source) == 25
    assert any("too much to look for images that repeat" in line for line in source.account.found)


@pytest.mark.parametrize("gone", [(), (1,), (0, 1), (3, 4, 9), tuple(range(1, 10))])
def test_the_numbers_of_what_stays(gone):
    class Ten:
        name, skipped = "ten", {}

        def __len__(self):
            return 10

        def __getitem__(self, index):
            if index == 7:
                raise BadRecord("seven")
            return Record(str(index), {"image": b"", "text": Texts((str(index),))})

        def captions(self, index):
            return (str(index),)

    first = min(set(range(10)) - set(gone))
    source = repeats.United(Ten(), {n: first for n in gone}) if gone else Ten()
    stay = [n for n in range(10) if n not in gone]
    assert len(source) == len(stay)
    assert [int(source.captions(k)[0]) for k in range(len(stay))] == stay
    assert set(source.captions(0)) == {str(first), *map(str, gone)}
    with pytest.raises(BadRecord, match="seven"):
        np.array([source[k] for k in range(len(stay))])
