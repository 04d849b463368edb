"""One meaning of lines, nulls, byte order marks and integers, whatever the format."""

import math

import numpy as np
import pytest
from pictures import encode, picture, write_tar

from mmjax.data import open_source
from mmjax.data.texts import (
    BadText,
    clean_captions,
    decode,
    integer,
    lines,
    read_json,
    txt_captions,
    written_nulls,
)
from mmjax.errors import UserError
from mmjax.evaluation.words import class_words

BOM = b"\xef\xbb\xbf"
# Where str.splitlines cuts.
INSIDE = ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize("mark", INSIDE)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_end_at_line_feeds_only(tmp_path, mark, end):
    text = f"{BOM.decode()}a dog{mark}in the snow{end}{end} another {end}"
    expected = (f"a dog{mark}in the snow", "another")
    (tmp_path / "pairs").mkdir()
    for file, content in (("0.png", encode(picture(0))), ("0.txt", text.encode())):
        (tmp_path / "pairs" / file).write_bytes(content)
    (tmp_path / "lines.txt").write_bytes(text.encode())
    write_tar(tmp_path / "0.tar", [("0.png", encode(picture(0))), ("0.txt", text.encode())])
    assert open_source({"path": str(tmp_path / "pairs")}).captions(0) == expected
    assert open_source({"path": str(tmp_path / "0.tar")}).captions(0) == expected
    source = open_source({"path": str(tmp_path / "lines.txt")})
    assert [source.captions(n) for n in range(len(source))] == [(line,) for line in expected]
    assert class_words(str(tmp_path / "lines.txt"), "x").names == list(expected)


@pytest.mark.parametrize(
    "null", [None, math.nan, np.float32("nan"), "", " \n", "NaN", "None", "null", b"", BOM]
)
def test_nulls_are_no_captions_and_no_integers(null):
    assert clean_captions(null) == ()
    assert clean_captions(["a", null, "b"]) == ("a", "b")
    assert integer(null) is None


def test_a_class_may_be_called_none(tmp_path):
    (tmp_path / "names.txt").write_text("cat\nnone\ndog\n")
    assert class_words(str(tmp_path / "names.txt"), "x").names == ["cat", "none", "dog"]


@pytest.mark.parametrize(
    ("value", "captions"),
    [
        (" a\nb ", ("a\nb",)),  # a field is one caption
        (b"caf\xc3\xa9", ("café",)),
        (7, ("7",)),
        (["a", ["b", 2.5]], ("a", "b", "2.5")),
        (np.array(["a", "b"], object), ("a", "b")),
        ("\ufeffa", ("a",)),
        ('["a", "b, \\"c\\""]', ("a", 'b, "c"')),  # a list that went through a table
        ("['a', \"it's\",]", ("a", "it's")),
        ("['a', 'None', '']", ("a",)),
        ("['a' 'b']", ("['a' 'b']",)),  # Python would read 'ab'
        ("['a', b]", ("['a', b]",)),
        ("[1, 2]", ("[1, 2]",)),
        ("[]", ("[]",)),
        ("[sic] a dog", ("[sic] a dog",)),
        ("['" * 2000 + "a" + "']" * 2000, ("['" * 2000 + "a" + "']" * 2000,)),
    ],
)
def test_a_field_is_a_caption_or_a_list_of_them(value, captions):
    assert clean_captions(value) == captions


@pytest.mark.parametrize(
    ("value", "nulls"),
    [
        ("None", 1), (b"nan", 1), ("", 0), (" ", 0), (None, 0), (math.nan, 0), ("none of it", 0),
        (["a", "null", None, "<NA>"], 2), ('["a", "None"]', 1), (7, 0),
    ],
)  # fmt: skip
def test_nulls_that_were_written_are_counted(value, nulls):
    assert written_nulls(value) == nulls


@pytest.mark.parametrize(
    "value", [True, {"en": "a"}, "\ud800", "a\0b", "é".encode("latin-1"), object()]
)
def test_what_is_no_text_is_said(value):
    with pytest.raises(BadText):
        clean_captions(value)


@pytest.mark.parametrize(
    ("data", "line", "problem"),
    [
        ("a\nb".encode("utf-16"), 1, "is UTF-16, not UTF-8"),
        ("a\nb".encode("utf-16-be"), 1, "holds NUL"),
        ("a\nb\ncafé".encode("latin-1"), 3, "is not UTF-8"),
        (b"a\n\0", 2, "holds NUL"),
    ],
)
def test_other_encodings_are_named_with_their_line(data, line, problem):
    with pytest.raises(BadText, match=problem) as error:
        decode(data)
    assert error.value.line == line
    with pytest.raises(BadText, match=problem):
        txt_captions(data)


def test_a_list_of_names_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "names.txt").write_bytes("ant\nbée\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"names\.txt, line 2, is not UTF-8; save it as UTF-8"):
        class_words(str(tmp_path / "names.txt"), "x")


def test_lines_that_cannot_be_used_are_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes(BOM + b"\none\nnull\n\xff\n  \ntwo")
    source = open_source({"path": str(tmp_path / "a.txt")})
    assert [source.captions(n) for n in range(len(source))] == [("one",), ("two",)]
    assert dict(source.skipped) == {"that are nulls": 1, "not UTF-8": 1}
    (tmp_path / "b.txt").write_bytes("one".encode("utf-16"))
    with pytest.raises(UserError, match=r"b\.txt holds no line of text, but 1 UTF-16, not UTF-8"):
        open_source({"path": str(tmp_path / "b.txt")})


@pytest.mark.parametrize(
    ("value", "number"),
    [("7", 7), ("7.0", 7), (7.0, 7), (" 7\n", 7), (b"7\n", 7), (BOM + b"7", 7), (np.int64(7), 7),
     (True, 1), ("False", 0), ("true", 1), (-1, -1)],
)  # fmt: skip
def test_integers_as_programs_write_them(value, number):
    assert integer(value) == number


@pytest.mark.parametrize("value", ["cat", "7.5", 7.5, math.inf, "1e999", 2**31, 1 << 70, "1_0x"])
def test_what_is_no_integer_of_32_bits_is_refused(value):
    with pytest.raises((ValueError, OverflowError)):
        integer(value)


def test_json_may_have_a_byte_order_mark_and_no_key_twice():
    assert read_json(BOM + b'{"a": [1]}') == {"a": [1]}
    for data in (b'{"a": 1, "a": 2}', b"[" * 100_000, b"{", b"\xff"):
        with pytest.raises(ValueError, match=r"."):
            read_json(data)


def test_lines_are_stripped_and_blank_ones_left_out():
    assert lines(b" a \r\n\r\n\tb") == ["a", "b"]
