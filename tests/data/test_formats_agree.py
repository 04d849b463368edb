"""The same content in every format is the same records: images, captions, labels, groups, counts.

What it means is written down once (CONTENT); each writer stores it as people do in that format, one
row or key a caption where the format has rows or keys.
"""

import csv
import io
import json
from typing import NamedTuple

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encode, picture, write_tar

from mmjax.data import open_source, texts
from mmjax.evaluation.retrieval import captions_of, retrieval_metrics

BOM = "\ufeff"


class Image(NamedTuple):
    image: bytes
    stored: tuple[str, ...]  # captions as they are stored
    captions: tuple[str, ...]  # as they are read
    label: int
    group: int


FIVE = ("one", "two", "three", "four", "five")
CONTENT = (
    Image(encode(picture(0)), FIVE, FIVE, 3, 7),
    Image(encode(picture(1)), (BOM + "a dog\u2028in the\x85snow \r",),
          ("a dog\u2028in the\x85snow",), 0, 7),
    Image(encode(picture(2)), ('say "no", twice',), ('say "no", twice',), 5, 0),
    Image(encode(picture(3)), ("NaN", "not null"), ("not null",), 5, 1),
    Image(encode(picture(4)), ("  ",), (), 1, 2),
    Image(encode(picture(5)), ("None",), (), 1, 3),
    Image(encode(picture(6)), ("Größe 😀", "a\tb"), ("Größe 😀", "a\tb"), 2, 4),
    Image(encode(picture(7)), ('["a dog", "b, c"]', "['it''s']", "[sic] a"),
          ("a dog", "b, c", "['it''s']", "[sic] a"), 2, 5),
)  # fmt: skip
USED = [content for content in CONTENT if content.captions]
ROWS = [(n, content, text) for n, content in enumerate(CONTENT) for text in content.stored]
NULLS = 3  # rows without a caption
IN_ROWS = {"without a caption": NULLS}
IN_IMAGES = {"without a caption": 2}  # where an image's captions are stored together


def files(folder):
    for n, content in enumerate(CONTENT):
        (folder / f"{n}.png").write_bytes(content.image)


def folder(folder):
    for n, content in enumerate(CONTENT):
        (folder / f"{n}.png").write_bytes(content.image)
        text = "\n".join(content.stored)
        (folder / f"{n}.txt").write_bytes(text.encode())
    return folder, IN_IMAGES


def tar_lines(folder):
    members = [m for n, c in enumerate(CONTENT) for m in members_of(f"{n}", c, "\n".join(c.stored))]
    write_tar(folder / "0.tar", members)
    return folder, IN_IMAGES


def tar_keys(folder):
    members = [m for k, (_, content, text) in enumerate(ROWS)
               for m in members_of(f"{k}", content, text)]  # fmt: skip
    write_tar(folder / "0.tar", members[: len(members) // 2 // 3 * 3])
    write_tar(folder / "1.tar", members[len(members) // 2 // 3 * 3 :])
    return folder, IN_ROWS


def tar_json(folder):
    members = [m for n, c in enumerate(CONTENT) for m in members_of(f"{n}", c, "unread")]
    write_tar(folder / "0.tar", members)
    return {"path": folder, "caption": "json:captions"}, IN_IMAGES


def members_of(key, content, text):
    about = {"label": content.label, "group": content.group, "captions": list(content.stored)}
    return [(f"{key}.png", content.image), (f"{key}.txt", text.encode()),
            (f"{key}.json", BOM.encode() + json.dumps(about).encode())]  # fmt: skip


def delimited(delimiter, suffix):
    def write(folder):
        files(folder)
        text = io.StringIO()
        writer = csv.writer(text, delimiter=delimiter)
        writer.writerow(["image", "caption", "label", "group"])
        for n, content, caption in ROWS:
            writer.writerow([f"{n}.png", caption, content.label, content.group])
        (folder / f"a{suffix}").write_bytes((BOM + text.getvalue()).encode())
        return folder / f"a{suffix}", IN_ROWS

    return write


def jsonl(folder):
    files(folder)
    lines = [json.dumps({"file_name": f"{n}.png", "text": list(c.stored), "label": c.label,
                         "group": str(c.group)}) for n, c in enumerate(CONTENT)]  # fmt: skip
    (folder / "metadata.jsonl").write_text(BOM + "\r\n".join(lines))
    return folder / "metadata.jsonl", IN_IMAGES


def parquet(stored):
    def write(folder):
        files(folder)
        image = {"bytes": lambda n, c: c.image, "path": lambda n, c: f"{n}.png",
                 "struct": lambda n, c: {"bytes": c.image, "path": f"{n}.png"}}[stored]  # fmt: skip
        table = {
            "image": [image(n, c) for n, c, _ in ROWS],
            "caption": [None if text == "None" else text for _, _, text in ROWS],
            "label": [c.label for _, c, _ in ROWS],
            "group": [float(c.group) for _, c, _ in ROWS],
        }
        pq.write_table(pa.table(table), folder / "a.parquet", row_group_size=3)
        return folder / "a.parquet", IN_ROWS

    return write


def array_record(folder):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(folder / "a.array_record"), "group_size:1")
    for _, content, text in ROWS:
        values = {"image": content.image, "caption": None if text == "NaN" else text,
                  "label": content.label, "group": content.group}  # fmt: skip
        writer.write(msgpack.packb(values))
    writer.close()
    return folder, {}


def coco(folder):
    files(folder)
    content = {
        "images": [{"id": 10 + n, "file_name": f"{n}.png"} for n in range(len(CONTENT))],
        "annotations": [{"image_id": 10 + n, "caption": text} for n, _, text in ROWS],
    }
    (folder / "captions.json").write_bytes(BOM.encode() + json.dumps(content).encode())
    return folder / "captions.json", IN_IMAGES


def karpathy(folder):
    files(folder)
    images = [{"split": "train", "filename": f"{n}.png",
               "sentences": [{"raw": text} for text in c.stored]}
              for n, c in enumerate(CONTENT)]  # fmt: skip
    (folder / "dataset_x.json").write_text(json.dumps({"images": images}))
    return folder / "dataset_x.json", IN_IMAGES


FORMATS = {
    "folder": folder, "tar, lines": tar_lines, "tar, keys": tar_keys, "tar, json": tar_json,
    "csv": delimited(",", ".csv"), "tsv": delimited("\t", ".tsv"),
    "semicolons": delimited(";", ".csv"), "jsonl": jsonl, "parquet, bytes": parquet("bytes"),
    "parquet, struct": parquet("struct"),
    "parquet, path": parquet("path"), "arrayrecord": array_record, "coco": coco,
    "karpathy": karpathy,
}  # fmt: skip
LABELLED = [name for name in FORMATS if name not in ("folder", "coco", "karpathy")]


def opened(name, folder, **keys):
    path, left_out = FORMATS[name](folder)
    spec = path if isinstance(path, dict) else {"path": path}
    return open_source({**spec, "path": str(spec["path"]), **keys}), left_out


def records(source):
    """By image: captions, label, group of the records that have captions."""
    found = [source[n] for n in range(len(source))]
    kept = {r.parts["image"]: (sorted(r.captions), r.label, r.group) for r in found if r.captions}
    assert len(kept) == sum(bool(r.captions) for r in found), "an image is there twice"
    return kept


@pytest.mark.parametrize("name", FORMATS)
def test_images_and_captions(tmp_path, name):
    source, left_out = opened(name, tmp_path)
    found = records(source)
    assert {image: captions for image, (captions, _, _) in found.items()} == {
        content.image: sorted(content.captions) for content in USED
    }
    assert {label for _, label, _ in found.values()} in ({-1}, {c.label for c in USED})
    assert dict(source.skipped) == left_out
    if left_out == IN_IMAGES:  # the NaN beside another caption
        assert texts.NULLS in source.account.unread
    for n in range(len(source)):
        assert source.captions(n) == source[n].captions


@pytest.mark.parametrize("name", LABELLED)
def test_labels_and_groups(tmp_path, name):
    source, _ = opened(name, tmp_path, label="label", group="group")
    assert records(source) == {c.image: (sorted(c.captions), c.label, c.group) for c in USED}
    # What has a label is of use without a caption.
    assert not source.skipped


def embed(keys):
    """A unit vector for each key, of the key alone."""
    seeds = [list(key.encode() if isinstance(key, str) else key) for key in keys]
    vectors = np.stack([np.random.default_rng(seed).normal(size=4) for seed in seeds])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def expected():
    return metrics([c.image for c in USED], [c.captions for c in USED])


def metrics(images, captions):
    owners = np.repeat(np.arange(len(captions)), [len(group) for group in captions])
    texts = [caption for group in captions for caption in group]
    pairs = np.stack([owners, np.arange(len(texts))], axis=1)
    return retrieval_metrics(embed(images), embed(texts), pairs)


@pytest.mark.parametrize("name", FORMATS)
def test_retrieval(tmp_path, name, expected):
    source, _ = opened(name, tmp_path)
    if name == "arrayrecord":  # whose records are not looked at when it is opened
        source = [source[n] for n in range(len(source)) if source.captions(n)]
        found = metrics([r.parts["image"] for r in source], [r.captions for r in source])
    else:
        captions = captions_of(source)
        found = metrics([source[n].parts["image"] for n in range(len(source))], captions)
    assert found.keys() == expected.keys()
    for key in ("images", "texts", "image_to_text/R@1", "text_to_image/R@1",
                "image_to_text/mean_rank", "text_to_image/median_rank"):  # fmt: skip
        assert found[key] == pytest.approx(expected[key]), key
