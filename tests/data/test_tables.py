"""Tables: every row is read as it is meant, or the table is refused with the line."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encode, picture

from mmjax.data import open_source
from mmjax.errors import UserError


@pytest.fixture
def images(tmp_path):
    for n in range(4):
        (tmp_path / f"{n}.jpg").write_bytes(encode(picture(n), "JPEG"))
    return tmp_path


def read(folder, text, file="a.csv", **spec):
    data = text if isinstance(text, bytes) else text.encode()
    (folder / file).write_bytes(data)
    return open_source({"path": str(folder / file), **spec})


def captions(source):
    return [source.captions(n) for n in range(len(source))]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            "1.jpg,a red car, parked",
            r"line 3, has 3 cells, and the header 2: put a cell .* a comma",
        ),
        ("1.jpg", r"line 3, has 1 cells, and the header 2"),
        ("1.jpg,a dog\nin the snow", r"line 4, has 1 cells"),
        ('1.jpg,"a dog', r"line 3, has a quote that opens and is never closed"),
        ('1.jpg,"a "big" dog"', r"line 3, has text after the quote that closes a cell"),
        ('1.jpg,"a \\"big\\" dog, running"', r"line 3, has text after the quote"),
        ('1.jpg,"a dog\n2.jpg,a cat"\n', r"line 3 has a caption that holds other rows of .*a\.csv"),
        ('1.jpg,"a dog\n2.jpg,"a cat', r"line 3, has "),
    ],
)
def test_rows_that_do_not_fit_are_refused_with_their_line(images, row, said):
    with pytest.raises(UserError, match=said):
        read(images, f"image,caption\n0.jpg,a plain one\n{row}\n3.jpg,the last\n")


@pytest.mark.parametrize(
    ("cell", "caption"),
    [
        ('"a dog, running"', "a dog, running"),
        (' "a dog, running"', "a dog, running"),
        ('"a ""big"" dog"', 'a "big" dog'),
        ('"a dog\nin the snow, asleep"', "a dog\nin the snow, asleep"),
        ("a dog\u2028in\x85the\x0csnow", "a dog\u2028in\x85the\x0csnow"),
        ('a 5" nail', 'a 5" nail'),
        ('"a dog",', "a dog"),  # an empty cell too many, as spreadsheets write
    ],
)
def test_cells_are_read_as_they_are_meant(images, cell, caption):
    source = read(images, f"image,caption\n0.jpg,{cell}\n\n1.jpg,another\n")
    assert captions(source) == [(caption,), ("another",)]
    assert not source.skipped


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("delimiter", "file", "said"),
    [(",", "a.csv", ""), ("\t", "a.tsv", ""), ("\t", "a.csv", "a tab"),
     (";", "a.csv", "a semicolon"), ("|", "a.csv", "a bar"), (",", "a.tsv", "a comma")],
)  # fmt: skip
def test_the_delimiter_is_that_of_the_header_and_said(images, delimiter, file, said, end):
    rows = [["image", "caption"], ["0.jpg", "a, b; c"], ["1.jpg", 'say "no"']]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=end).writerows(rows)
    source = read(images, text.getvalue(), file)
    assert captions(source) == [("a, b; c",), ('say "no"',)]
    assert bool(said) == any(f"separated by {said}" in line for line in source.account.found)


def test_what_spreadsheets_say_of_the_delimiter_is_read(images):
    assert captions(read(images, "sep=;\r\nimage;caption\r\n0.jpg;a, b\r\n")) == [("a, b",)]
    with pytest.raises(UserError, match=r"line 3, has 3 cells"):
        read(images, "sep=;\nimage;caption\n0.jpg;a;b\n")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("image,caption\n0.jpg,caf\xe9\n".encode("latin-1"), r"a\.csv, line 2, is not UTF-8"),
        ("image,caption\n0.jpg,a\n".encode("utf-16"), r"a\.csv, line 1, is UTF-16, not UTF-8"),
        (b"image,caption\n0.jpg,a\0b\n", r"line 2, holds NUL"),
        ("image,caption,caption\n0.jpg,a,b\n", r"has two columns 'caption'"),
        ("image,Caption,caption \n0.jpg,a,b\n", r"a b|"),
        ("image,CAPTION,Caption\n0.jpg,a,b\n", r"has the columns CAPTION and Caption: set caption"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_for_certain_is_refused(images, data, said):
    if said == r"a b|":  # one of them is spelt as it should be
        assert captions(read(images, data)) == [("b",)]
        return
    with pytest.raises(UserError, match=said):
        read(images, data)


def test_json_lines_are_a_table(images):
    rows = [
        {"image": "0.jpg", "caption": ["a", "b\nc"], "label": 3},
        {"image": "1.jpg", "caption": None, "label": "4"},
        {"image": "0.jpg", "caption": "d", "label": 3.0},
    ]
    text = "\ufeff" + "".join(json.dumps(row) + "\n\n" for row in rows)
    source = read(images, text, "a.jsonl", label="label")
    assert captions(source) == [("a", "b\nc", "d"), ()]
    assert [source[n].label for n in range(2)] == [3, 4]


@pytest.mark.parametrize(
    ("line", "said"),
    [('{"image": ', "is no JSON"), ("[1]", "is no JSON object"),
     ('{"image": "0.jpg", "image": "1.jpg"}', "the key 'image' is repeated")],
)  # fmt: skip
def test_json_lines_that_are_none_are_refused_with_their_line(images, line, said):
    text = json.dumps({"image": "0.jpg", "caption": "a"}) + "\n" + line
    with pytest.raises(UserError, match=rf"a\.jsonl, line 2, .*{said}"):
        read(images, text, "a.jsonl")


@pytest.mark.parametrize("what", ["label", "group"])
def test_two_labels_of_an_image_are_refused_with_both_lines(images, what):
    with pytest.raises(UserError, match=rf"line 3 gives .*0\.jpg the {what} 1, and .*line 2 0"):
        read(images, f"image,caption,{what}\n0.jpg,a,0\n./0.jpg,b,1\n", **{what: what})


def test_each_row_is_a_caption_or_counted(images):
    rows = ["0.jpg,a,1", "0.jpg,NaN,1", "0.jpg,b,0", ",c,1", "no.jpg,d,1", "no.jpg,e,1", "1.jpg,f,"]
    source = read(images, "\n".join(["image,caption,n", *rows]), filter="n > 0")
    assert captions(source) == [("a",)]
    assert dict(source.skipped) == {
        "without a caption": 1,
        "that the filter leaves out": 1,
        "without an image": 1,
        "whose image file is missing": 2,
        "without 'n', which the filter asks for": 1,
    }


def test_labels_may_be_written_as_programs_do(images):
    source = read(images, "image,label\n0.jpg,1.0\n1.jpg,True\n2.jpg,\n3.jpg, 7\n", label="label")
    assert [source[n].label for n in range(len(source))] == [1, 1, 7]
    assert dict(source.skipped) == {"without an integer 'label'": 1}
    with pytest.raises(UserError, match=r"line 2: no integer in column 'label'"):
        read(images, "image,label\n0.jpg,3000000000\n", label="label")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_labels_may_be_names_of_classes(images, kind):
    """As folders are: numbered in order, over all files and splits alike."""
    labels = {"a": ["dog", "cat"], "b": ["", "emu"]}
    for name, pair in labels.items():
        files = ["0.jpg", "1.jpg"] if name == "a" else ["2.jpg", "3.jpg"]
        if kind == "csv":
            rows = "".join(f"{file},{one}\n" for file, one in zip(files, pair, strict=True))
            (images / f"{name}.csv").write_text("image,Label\n" + rows)
        else:
            pq.write_table(pa.table({"image": files, "Label": pair}), images / f"{name}.parquet")
    source = open_source({"path": str(images / f"*.{kind}"), "label": "label"})
    assert source.classes == ("cat", "dog", "emu")
    assert [source[n].label for n in range(len(source))] == [1, 0, 2]
    assert dict(source.skipped) == {"without a 'Label'": 1}
