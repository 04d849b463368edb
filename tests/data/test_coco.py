"""COCO's JSON of captions, and tables in the layout of CC3M and CC12M."""

import json

import pytest
from pictures import encode, picture

from mmjax.data import open_source
from mmjax.errors import UserError


def write_coco(folder, images="train2017"):
    (folder / "annotations").mkdir()
    (folder / images).mkdir()
    for n in range(3):
        (folder / images / f"{n:012d}.jpg").write_bytes(encode(picture(n), "JPEG"))
    content = {
        "images": [{"id": n + 7, "file_name": f"{n:012d}.jpg"} for n in range(3)],
        "annotations": [
            {"id": m, "image_id": n + 7, "caption": f"picture {n}, said {m}"}
            for m in range(2)
            for n in (2, 0)
        ],
    }
    path = folder / "annotations" / "captions_train2017.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("folder", ["train2017", "elsewhere"])
def test_a_record_is_an_image_with_its_captions(tmp_path, folder):
    path = write_coco(tmp_path, folder)
    image = "" if folder == "train2017" else "../elsewhere"
    source = open_source({"path": str(path), "image": image})
    assert [source.captions(n) for n in range(2)] == [
        ("picture 0, said 0", "picture 0, said 1"),
        ("picture 2, said 0", "picture 2, said 1"),
    ]
    assert source[1].parts["image"] == encode(picture(2), "JPEG")
    assert dict(source.skipped) == {"without a caption": 1}


def test_what_is_wrong_with_the_json_is_named(tmp_path):
    path = write_coco(tmp_path, "elsewhere")
    with pytest.raises(
        UserError, match=r"000\.jpg and 2 others of .* are not in .*train2017; set image"
    ):
        open_source({"path": str(path)})
    for content in ("{}", '{"images": [{"id": 3}], "annotations": []}', "{1"):
        path.write_text(content)
        with pytest.raises(UserError, match=r"captions_train2017\.json is no(t)? JSON (as|\()"):
            open_source({"path": str(path)})


@pytest.mark.parametrize(
    ("line", "columns"),
    [("a cat\thttp://x.org/1.jpg\n", "caption.turl"), ("https://x.org/1.jpg\ta cat\n", "url.tcap")],
)
def test_addresses_are_no_images_and_the_remedy_is_named(tmp_path, line, columns):
    (tmp_path / "cc.tsv").write_text(line * 3)
    with pytest.raises(UserError, match=rf"{columns}.* run img2dataset .*--url_col=url"):
        open_source({"path": str(tmp_path / "cc.tsv")})


def test_a_table_is_filtered_and_its_columns_are_weighted(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.jpg").write_bytes(encode(picture(n), "JPEG"))
    (tmp_path / "a.csv").write_text(
        "image,alt,synthetic,similarity\n0.jpg,a,b,0.4\n1.jpg,c,d,0.2\n2.jpg,,e,0.5\n"
    )
    spec = {"path": str(tmp_path / "a.csv"), "filter": "similarity > 0.3"}
    spec |= {"caption": "alt,synthetic", "caption_weights": (1, 3)}
    source = open_source(spec)
    assert [(r.captions, r.parts["text"].weights) for r in (source[0], source[1])] == [
        (("a", "b"), (1, 3)),
        (("e",), (3,)),
    ]
    assert dict(source.skipped) == {"that the filter leaves out": 1}


def test_images_that_are_missing_or_unnamed_are_counted_whichever_they_are(tmp_path):
    """Any of a few images says where they are; that the first is missing says nothing."""
    path = write_coco(tmp_path)
    content = json.loads(path.read_text())
    content["images"].append({"id": 99, "file_name": None})
    content["annotations"] += [
        {"image_id": 5, "caption": "of none"},
        {"image_id": 7, "caption": ""},
    ]
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    (tmp_path / "train2017" / f"{0:012d}.jpg").unlink()
    for image in ("", "../train2017", str(tmp_path / "train2017")):
        source = open_source({"path": str(path), "image": image})
        assert [source.captions(n) for n in range(len(source))] == [
            ("picture 2, said 0", "picture 2, said 1")
        ]
        assert dict(source.skipped) == {
            "whose image file is missing": 1,
            "without a caption": 1,
            "without a file name": 1,
            "captions of no image in the file": 1,
        }
        assert source.account.unread == {"captions that are nulls": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: c["images"].append({"id": 7, "file_name": "x.jpg"}),
            "gives two images the id 7",
        ),
        (
            lambda c: c["annotations"].append({"image_id": [1], "caption": "x"}),
            "is not JSON as COCO",
        ),
        (lambda c: c["images"].append(3), "is not JSON as COCO"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, change, said):
    path = write_coco(tmp_path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=said):
        open_source({"path": str(path)})
