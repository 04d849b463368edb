"""Splits are found wherever they show; a key that a format cannot honour is refused."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encode, picture, write_tar

from mmjax.data import open_source, sources
from mmjax.data.array_record import write_array_record
from mmjax.data.records import BadRecord, Record, Texts
from mmjax.errors import UserError
from mmjax.schema import entry

SPLITS = {"train": 3, "val": 2, "test": 1}  # split → how many records


def names(source):
    return sorted(caption for n in range(len(source)) for caption in source.captions(n))


def expected(*splits):
    return sorted(f"{split} {n}" for split in splits for n in range(SPLITS[split]))


def rows():
    return [(split, n) for split, count in SPLITS.items() for n in range(count)]


def write_folders(folder, of=lambda split: split):
    for split, n in rows():
        (folder / of(split)).mkdir(exist_ok=True)
        (folder / of(split) / f"{n}.png").write_bytes(encode(picture(n)))
        (folder / of(split) / f"{n}.txt").write_text(f"{split} {n}")
    return folder


def write_classes(folder):
    for split, n in rows():
        (folder / split / f"class{n}").mkdir(parents=True)
        (folder / split / f"class{n}" / "0.png").write_bytes(encode(picture(n)))
    return folder


def members(split):
    return [m for n in range(SPLITS[split]) for m in
            ((f"{n}.png", encode(picture(n))), (f"{n}.txt", f"{split} {n}".encode()))]  # fmt: skip


def write_tar_files(folder):
    for split in SPLITS:
        write_tar(folder / f"{split}-0000.tar", members(split))
    return folder


def write_tar_folders(folder):
    for split in SPLITS:
        (folder / split).mkdir()
        write_tar(folder / split / "0.tar", members(split))
    return folder


def write_parquet_files(folder):
    for split, count in SPLITS.items():
        table = {"image": [encode(picture(n)) for n in range(count)]}
        table["caption"] = [f"{split} {n}" for n in range(count)]
        pq.write_table(pa.table(table), folder / f"{split}-00000-of-00001.parquet")
    return folder


def write_array_files(folder):
    for split, count in SPLITS.items():
        records = [Record("", {"image": encode(picture(n)), "text": Texts((f"{split} {n}",))})
                   for n in range(count)]  # fmt: skip
        write_array_record(folder / f"set-{split}.array_record-00000-of-00001", records)
    return folder


def write_texts(folder):
    for split, count in SPLITS.items():
        (folder / f"{split}.txt").write_text("".join(f"{split} {n}\n" for n in range(count)))
    return folder / "*.txt"


def write_column(folder, file):
    for n in range(3):
        (folder / f"{n}.png").write_bytes(encode(picture(n)))
    table = [
        {"image": f"{n}.png", "caption": f"{split} {n}", "split": split} for split, n in rows()
    ]
    if file.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(table), folder / file)
    elif file.endswith("jsonl"):
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in table))
    else:
        lines = ["image,caption,split", *(",".join(row.values()) for row in table)]
        (folder / file).write_text("\n".join(lines))
    return folder / file


def write_karpathy(folder):
    images = []
    for split, n in rows():
        (folder / f"{split}{n}.png").write_bytes(encode(picture(n)))
        images.append({"split": split, "filename": f"{split}{n}.png",
                       "sentences": [{"raw": f"{split} {n}"}]})  # fmt: skip
    (folder / "dataset_x.json").write_text(json.dumps({"images": images}))
    return folder / "dataset_x.json"


DIVIDED = {
    "folders": write_folders,
    "folders of years": lambda folder: write_folders(folder, lambda split: f"{split}2017"),
    "tar files": write_tar_files,
    "tar folders": write_tar_folders,
    "tar glob": lambda folder: write_tar_folders(folder) / "*" / "*.tar",
    "parquet files": write_parquet_files,
    "arrayrecord files": write_array_files,
    "texts": write_texts,
    "csv column": lambda folder: write_column(folder, "a.csv"),
    "jsonl column": lambda folder: write_column(folder, "a.jsonl"),
    "parquet column": lambda folder: write_column(folder, "a.parquet"),
    "karpathy": write_karpathy,
}


@pytest.mark.parametrize("write", DIVIDED.values(), ids=DIVIDED)
def test_training_reads_the_training_split_and_evaluation_the_test_split(tmp_path, write):
    path = str(write(tmp_path))
    source = open_source({"path": path})
    assert names(source) == expected("train")
    assert any("split says otherwise" in line for line in source.account.found)
    assert names(open_source({"path": path}, unset="test")) == expected("test")
    assert names(open_source({"path": path, "split": "val"}, unset="test")) == expected("val")
    with pytest.raises(UserError, match=r"has no split 'dev2', but test.*, train.*, val"):
        open_source({"path": path, "split": "dev2"})


@pytest.mark.parametrize("write", [DIVIDED[k] for k in ("tar files", "csv column", "karpathy")])
def test_splits_may_be_joined_and_called_by_another_word(tmp_path, write):
    path = str(write(tmp_path))
    assert names(open_source({"path": path, "split": "train+val"})) == expected("train", "val")
    assert names(open_source({"path": path, "split": "validation"})) == expected("val")


def test_a_folder_of_splits_is_no_folder_of_classes(tmp_path):
    source = open_source({"path": str(write_classes(tmp_path / "a"))})
    assert [source[n].label for n in range(len(source))] == [0, 1, 2]
    (tmp_path / "a" / "extra").mkdir()
    with pytest.raises(
        UserError, match=r"holds the splits test, train, val beside extra: set split"
    ):
        open_source({"path": str(tmp_path / "a")})
    assert len(open_source({"path": str(tmp_path / "a"), "split": "val"})) == 2


def test_one_class_may_be_called_train(tmp_path):
    for name in ("bus", "car", "train"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(encode(picture(0)))
    source = open_source({"path": str(tmp_path)})
    assert [source[n].label for n in range(len(source))] == [0, 1, 2]


def test_restval_is_trained_on_where_nothing_is_said(tmp_path):
    path = write_karpathy(tmp_path)
    path.write_text(path.read_text().replace('"val"', '"restval"'))
    assert names(open_source({"path": str(path)})) == expected("train", "val")
    assert names(open_source({"path": str(path), "split": "train"})) == expected("train")


def test_a_filter_on_the_split_is_the_users_word(tmp_path):
    path = str(write_column(tmp_path, "a.csv"))
    assert names(open_source({"path": path, "filter": "split == 'val'"})) == expected("val")


def test_a_column_of_other_values_is_no_split(tmp_path):
    path = write_column(tmp_path, "a.csv")
    path.write_text(path.read_text().replace(",test", ",A").replace(",train", ",B"))
    assert len(open_source({"path": str(path)})) == 3  # images; each with the captions of its rows


@pytest.fixture(scope="module")
def undivided(tmp_path_factory):
    """A path of each kind that is not divided."""
    folder = tmp_path_factory.mktemp("undivided")
    image, caption = encode(picture(0)), "a"
    found = {"generated": "generated:3"}
    for kind in ("tar", "parquet", "arrayrecord", "folder", "csv", "jsonl", "coco", "text"):
        (folder / kind).mkdir()
        found[kind] = str(folder / kind)
    write_tar(folder / "tar" / "0.tar", [("0.png", image), ("0.txt", b"a")])
    pq.write_table(pa.table({"image": [image], "caption": ["a"]}), folder / "parquet/0.parquet")
    record = Record("0", {"image": image, "text": Texts((caption,))})
    write_array_record(folder / "arrayrecord/0.array_record", [record])
    for kind in ("folder", "csv", "jsonl", "coco"):
        (folder / kind / "0.png").write_bytes(image)
    (folder / "folder/0.txt").write_text("a")
    texts = {
        "csv/a.csv": "image,caption\n0.png,a\n",
        "jsonl/a.jsonl": '{"image": "0.png", "caption": "a"}',
        "text/a.txt": "a\n",
        "coco/captions.json": json.dumps({"images": [{"id": 1, "file_name": "0.png"}],
                                          "annotations": [{"image_id": 1, "caption": "a"}]}),
    }  # fmt: skip
    for file, text in texts.items():
        (folder / file).write_text(text)
        found[file.partition("/")[0]] = str(folder / file)
    return found


KINDS = ("tar", "parquet", "arrayrecord", "folder", "csv", "jsonl", "coco", "text", "generated")
VALUES = {"image": "x", "caption": "x", "tags": "json:x", "media": "video", "label": "x",
          "group": "x", "split": "val", "filter": "x > 1", "bad_shards": 0.5, "timeout": 1.0,
          "caption_weights": (0.3,), "bag": 2, "min_seconds": 1.0, "boxes": "json:x"}  # fmt: skip


def test_all_keys_are_tried():
    known = {key.name for key in sources.KEYS} - sources.ALL_HAVE
    assert set(VALUES) == known
    assert set(sources.KINDS) >= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", VALUES)
def test_a_key_is_honoured_or_refused_with_the_kinds_that_have_it(undivided, kind, key):
    able = sources.KINDS[kind].keys
    spec = {"path": undivided[kind], key: VALUES[key]}
    if key in able and (kind == "generated" or key in ("bad_shards", "timeout", "caption_weights")):
        assert len(open_source(spec)) in (1, 3)
        return
    if key in able:
        # Nothing in the data is called x, nor is it divided: whoever looks for that says so.
        with pytest.raises((UserError, BadRecord), match=r"\bx\b|split=val|\bvideo\b|media=|'txt'"):
            open_source(spec)[0]
        return
    having = [name for name, other in sources.KINDS.items() if key in other.keys]
    with pytest.raises(
        UserError, match=rf"{key}=.* works on {', '.join(having)}, and not on {kind}"
    ):
        open_source(spec)


def test_the_defaults_of_an_evaluator_are_no_keys_that_are_set(undivided):
    for path in undivided.values():
        open_source(entry(sources.KEYS, {"path": path}), unset="test")


def test_kinds_of_one_file_do_not_take_the_first_of_several(undivided, tmp_path):
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text('{"images": [], "annotations": []}')
    with pytest.raises(UserError, match=r"names 2 files, .*a\.json and others: make each a source"):
        open_source({"path": str(tmp_path / "*.json")})
