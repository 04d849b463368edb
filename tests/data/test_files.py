"""Tables and folders of images."""

import json

import pytest
from pictures import encode, picture

from mmjax.data import open_source
from mmjax.errors import UserError


@pytest.fixture
def images(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.jpg").write_bytes(encode(picture(n), "JPEG"))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pairs.csv", 'filepath,title\n0.jpg,"one, two"\n1.jpg,three\n0.jpg,four\n'),
        ("pairs.tsv", "title\tfilepath\none, two\t0.jpg\nthree\t1.jpg\nfour\t0.jpg\n"),
        ("pairs.csv", '\ufeffImage,Caption\n0.jpg,"one, two"\n1.jpg,three\n0.jpg,four\n'),
    ],
)
def test_rows_with_one_image_are_its_captions(images, file, text):
    (images / file).write_text(text, encoding="utf-8")
    source = open_source({"path": str(images / file)})
    assert [source.captions(i) for i in range(len(source))] == [("one, two", "four"), ("three",)]
    assert source[1].parts["image"] == (images / "1.jpg").read_bytes()


def test_columns_can_be_named(images):
    (images / "a.csv").write_text("pic,short,long,kind\n0.jpg,a,b,7\n1.jpg,c,,8\n")
    spec = {"path": str(images / "a.csv"), "image": "pic", "caption": "short,long", "label": "kind"}
    source = open_source(spec)
    assert [(r.captions, r.label) for r in (source[0], source[1])] == [(("a", "b"), 7), (("c",), 8)]
    with pytest.raises(UserError, match=r"no image column filepath or .* it has pic, short"):
        open_source({"path": str(images / "a.csv")})
    with pytest.raises(UserError, match="no caption column middle"):
        open_source({**spec, "caption": "middle"})
    by_name = open_source({**spec, "label": "short", "caption": "long"})
    assert by_name.classes == ("a", "c")
    assert [by_name[n].label for n in range(2)] == [0, 1]


def test_rows_that_cannot_be_used_are_counted(images):
    (images / "empty.jpg").write_bytes(b"")
    (images / "a.csv").write_text("image,text\n0.jpg,a\nno.jpg,b\n1.jpg,  \nempty.jpg,c\n,d\n")
    source = open_source({"path": str(images / "a.csv")})
    assert dict(source.skipped) == {
        "whose image file is missing": 1,
        "without a caption": 1,
        "with an empty image": 1,
        "without an image": 1,
    }
    assert len(source) == 1


def test_tables_that_cannot_be_used_are_named(images):
    table = images / "a.csv"
    for content, message in [
        (b"", "is empty"),
        (b"image,text\n", "no usable image"),
        ("image,text\n0.jpg,café".encode("latin-1"), "not UTF-8"),
        (b"image,text\nno.jpg,a", r"1 whose image file is missing \(first: .*no.jpg"),
    ]:
        table.write_bytes(content)
        with pytest.raises(UserError, match=message):
            open_source({"path": str(table)})


def test_a_folder_with_texts_beside(images):
    (images / "0.txt").write_text("a line\nanother\n")
    (images / "1.txt").write_bytes("café".encode("latin-1"))
    (images / "deep").mkdir()
    (images / "deep" / "3.png").write_bytes(encode(picture(3)))
    (images / "deep" / "3.txt").write_text("three")
    source = open_source({"path": str(images)})
    assert [source.captions(i) for i in range(2)] == [("a line", "another"), ("three",)]
    assert dict(source.skipped) == {
        "with a caption that is not UTF-8": 1,
        "without a caption": 1,
    }


def test_a_folder_of_classes(tmp_path):
    for n, name in enumerate(["zebra", "ant", "ant"]):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / f"{n}.png").write_bytes(encode(picture(n)))
    source = open_source({"path": str(tmp_path)})
    assert [(r.label, r.captions) for r in (source[i] for i in range(3))] == [
        (0, ()),
        (0, ()),
        (1, ()),
    ]


def test_images_alone_are_no_data(images):
    with pytest.raises(UserError, match=r"holds images but no captions; put x\.txt beside"):
        open_source({"path": str(images)})


def write_karpathy(folder, **change):
    """Two test images, one of val; images lie in folders as COCO's do."""
    images = []
    for number, split in enumerate(("test", "val", "test")):
        (folder / "val2014").mkdir(exist_ok=True)
        (folder / "val2014" / f"{number}.jpg").write_bytes(encode(picture(number), "JPEG"))
        sentences = [{"raw": f"A picture {number}. "}, {"raw": f"Number {number}"}]
        entry = {"filepath": "val2014", "filename": f"{number}.jpg", "split": split}
        images.append(entry | {"sentences": sentences} | change)
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    return str(folder / "dataset_coco.json")


def test_karpathys_test_split_with_all_captions(tmp_path):
    source = open_source({"path": write_karpathy(tmp_path), "split": "test"})
    assert len(source) == 2
    assert source.captions(1) == ("A picture 2.", "Number 2")
    assert source[1].parts["image"] == encode(picture(2), "JPEG")
    both = open_source({"path": str(tmp_path / "dataset_coco.json"), "split": "val+test"})
    assert len(both) == 3


def test_karpathys_images_may_lie_elsewhere_and_flat(tmp_path):
    """As Flickr30k's, whose entries have no filepath."""
    path = write_karpathy(tmp_path, filepath="")
    source = open_source({"path": path, "image": "val2014", "split": "test"})
    assert source[0].key == str(tmp_path / "val2014" / "0.jpg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [{"split": "dev"}]}', r"has no split 'train', but dev"),
        ('{"images": [{"split": "train"}]}', r"is no JSON of Karpathy's splits \(KeyError"),
        ('{"images": [1]}', "is no JSON of Karpathy's splits"),
        ("{", r"dataset_coco\.json is no JSON \("),
    ],
)
def test_a_json_that_is_not_karpathys_is_said(tmp_path, content, message):
    (tmp_path / "dataset_coco.json").write_text(content)
    with pytest.raises(UserError, match=message):
        open_source({"path": str(tmp_path / "dataset_coco.json")})
