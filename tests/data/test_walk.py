"""Evaluation batches: every record once, in order; padding and what cannot be read are marked."""

import re

import numpy as np
from pictures import encode, pair, picture, write_tar
from PIL import Image

from mmjax.data import eval_batches, eval_transform, modalities, open_source
from mmjax.data.walk import why_unreadable

S, L = 24, 8


def walk(source, tokenizer, batch_size=8, rows=None, image_size=S, **options):
    rows = np.arange(batch_size) if rows is None else rows
    read = [modalities.Image("image", image_size)] * bool(image_size)
    read += [modalities.Text("text", L, tokenizer)] * (tokenizer is not None)
    return list(eval_batches(source, read, batch_size=batch_size, rows=rows, **options))


def test_every_record_once_in_order(source, tokenizer):
    batches = walk(source, tokenizer)
    assert len(batches) == 3
    columns = {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
    assert {key: (value.dtype.name, value.shape[1:]) for key, value in columns.items()} == {
        "image": ("uint8", (S, S, 3)),
        "text": ("int32", (L,)),
        "text_mask": ("bool", (L,)),
        "label": ("int32", ()),
        "group": ("int32", ()),
        "index": ("int32", ()),
        "mask": ("bool", ()),
        "unreadable": ("bool", ()),
    }
    assert columns["mask"].tolist() == [True] * 21 + [False] * 3
    assert columns["index"][:21].tolist() == list(range(21))
    assert columns["label"][:21].tolist() == [n % 3 for n in range(21)]
    assert len(set(columns["group"][:21].tolist())) == 21
    expected, mask = tokenizer.encode([f"picture number {n}" for n in range(21)], L)
    np.testing.assert_array_equal(columns["text"][:21], expected)
    np.testing.assert_array_equal(columns["text_mask"][:21], mask)
    assert not columns["text_mask"][21:].any()
    for n in range(21):
        np.testing.assert_array_equal(
            columns["image"][n], eval_transform(Image.fromarray(picture(n)), S)
        )


def test_rows_and_batch_size_and_workers_change_nothing(source, tokenizer):
    whole = walk(source, tokenizer)
    odd = walk(source, tokenizer, rows=np.array([6, 1]), workers=1)
    assert len(odd) == len(whole)
    for part, batch in zip(odd, whole, strict=True):
        for key in batch:
            np.testing.assert_array_equal(part[key], batch[key][[6, 1]])
    large = walk(source, tokenizer, batch_size=32)
    assert len(large) == 1
    for key in large[0]:
        joined = np.concatenate([b[key] for b in whole])[:21]
        np.testing.assert_array_equal(large[0][key][:21], joined)


def test_what_is_not_asked_for_is_not_there(tmp_path, tokenizer):
    """Without images none is decoded: this one could not be."""
    write_tar(tmp_path / "0.tar", [("a.jpg", b"no image"), ("a.txt", b"picture")])
    source = open_source({"path": str(tmp_path)})
    (batch,) = walk(source, tokenizer, image_size=None)
    assert "image" not in batch
    assert batch["mask"].sum() == 1
    (batch,) = walk(open_source({"path": "generated:3"}), None)
    assert "text" not in batch
    assert "text_mask" not in batch


def test_a_record_without_captions_is_a_row_of_padding(tmp_path, tokenizer):
    write_tar(tmp_path / "0.tar", [m for m in pair(2) if not m[0].endswith("txt")])
    (batch,) = walk(open_source({"path": str(tmp_path), "label": "label"}), tokenizer)
    assert batch["label"][0] == 2
    assert not batch["text_mask"].any()
    assert (batch["text"] == tokenizer.pad_id).all()


def test_an_unreadable_image_is_marked_and_named(tmp_path, tokenizer):
    cut = encode(picture(0), "JPEG")[:-100]
    write_tar(tmp_path / "0.tar", [*pair(1), ("bad.jpg", cut), ("bad.txt", b"a"), *pair(2)])
    source = open_source({"path": str(tmp_path)}, "heldout")
    (batch,) = walk(source, tokenizer, batch_size=4)
    assert batch["unreadable"].tolist() == [False, True, False, False]
    assert batch["mask"].tolist() == [True, True, True, False]
    assert not batch["image"][1].any()
    np.testing.assert_array_equal(batch["image"][2], eval_transform(Image.fromarray(picture(2)), S))
    said = why_unreadable(source, 1, [modalities.Image("image", S)])
    assert re.search(r"0\.tar: bad\.jpg cannot be decoded", said)
