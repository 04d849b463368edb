"""Damaged tables and JSON: each is read fully, or refused in a sentence that names the file.

Never a traceback, never a row or caption less, never two rows in one caption: what is read is
counted again here, by other code. MMJAX_FUZZ=2000 tries as many inputs as that (make test-fuzz).
"""

import csv
import io
import json
import math
import os
import re
from collections import Counter

import pyarrow.csv
import pytest
from pictures import encode, picture

from mmjax.data import open_source
from mmjax.errors import UserError

hypothesis = pytest.importorskip("hypothesis", reason="of the extra `test`")
st = hypothesis.strategies
tries = hypothesis.settings(
    max_examples=int(os.environ.get("MMJAX_FUZZ", "200")), deadline=None, database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)  # fmt: skip

IMAGES = 4
# What people's captions hold, and what breaks tables.
PIECES = ("a", "dog", " ", "\u2028", "\x85", "\x0c", '"', "'", ",", ";", "\t", "|", "\n", "\r\n",
          "\\", "ü", "😀", "\ufeff", "NaN", "0")  # fmt: skip
TEXT = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
BROKEN = (b'"', b'""', b",", b";", b"\t", b"\n", b"\r", b"\r\n", b"\\", b"\0", b"\xff", b"\xfe",
          b"\xe2\x80\xa8", b"\xef\xbb\xbf", b" ", b"a", b"{", b"}", b"[", b":",
          b"null")  # fmt: skip
EDIT = st.tuples(st.sampled_from(("insert", "delete", "replace", "cut", "repeat")),
                 st.floats(0, 1), st.integers(1, 12), st.sampled_from(BROKEN))  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for n in range(IMAGES):
        (folder / f"{n}.png").write_bytes(encode(picture(n, 4, 4)))
    return folder


def edited(data, edits):
    for what, where, size, piece in edits:
        at = int(where * len(data))
        match what:
            case "insert":
                data = data[:at] + piece + data[at:]
            case "delete":
                data = data[:at] + data[at + size :]
            case "replace":
                data = data[:at] + piece + data[at + len(piece) :]
            case "cut":
                data = data[:at]
            case "repeat":
                data = data[:at] + data[at : at + size] * 2 + data[at + size :]
    return data


def read(path, **spec):
    """The source, or None where it is refused in one sentence that names the file."""
    try:
        return open_source({"path": str(path), **spec})
    except UserError as error:
        said = str(error)
    assert path.name in said
    return None


def count_rows(text, delimiter):
    """Rows of a table below its header, blank lines left out: a quote that begins a cell opens it,
    and one that is not doubled closes it."""
    rows, blank, quoted, begins, at = 0, True, False, True, 0
    while at < len(text):
        c = text[at]
        if quoted:
            if c == '"' and text[at + 1 : at + 2] == '"':
                at += 1
            elif c == '"':
                quoted = False
        elif c in "\r\n":
            rows, blank, begins = rows + (not blank), True, True
        elif c == '"' and begins:
            quoted, blank, begins = True, False, False
        elif c == delimiter:
            begins, blank = True, False
        elif c != " " or not begins:
            begins = False
            blank &= c.isspace()
        at += 1
    return rows + (not blank) - 1


@tries
@hypothesis.given(
    rows=st.lists(st.tuples(st.integers(0, IMAGES), TEXT), min_size=1, max_size=6),
    delimiter=st.sampled_from(",\t;|"),
    end=st.sampled_from(("\n", "\r\n")),
    quoting=st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
    order=st.sampled_from((("image", "caption"), ("caption", "image"))),
    edits=st.lists(EDIT, max_size=3),
)
def test_delimited(images, rows, delimiter, end, quoting, order, edits):
    text = io.StringIO()
    writer = csv.DictWriter(text, order, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writeheader()
    writer.writerows({"image": f"{n}.png", "caption": caption} for n, caption in rows)
    whole = text.getvalue().encode()
    data = edited(whole, edits)
    path = images / "fuzz.csv"
    path.write_bytes(data)
    source = read(path)
    if source is None:
        assert edits or not any(clean(caption) for n, caption in rows if n < IMAGES) or any(
            re.search(r"\n.*[,;\t|].*\.png|\.png.*[,;\t|].*\n", caption) for _, caption in rows
        )  # fmt: skip
        return
    text = data.decode("utf-8-sig")
    used = [caption for n in range(len(source)) for caption in source.captions(n)]
    found = re.search("separated by a (.*)", "\n".join(source.account.found))
    names = {"tab": "\t", "semicolon": ";", "bar": "|"}
    assert len(used) + sum(source.skipped.values()) == count_rows(
        text, names[found[1]] if found else ","
    )
    for caption in used:
        if "\n" in caption:  # nothing that was a row of its own
            assert not re.search(r"(?m)^[^\n]*\.png\"?[,;\t|]|[,;\t|]\"?\d\.png$", caption)
    if not edits:
        options = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        table = pyarrow.csv.read_csv(io.BytesIO(whole), parse_options=options)
        assert table.num_rows == len(rows)
        expected = Counter(filter(None, (clean(c) for n, c in rows if n < IMAGES)))
        assert Counter(used) == expected


def clean(caption):
    """What of a caption is read: written anew, as the test's own word."""
    text = caption.strip().removeprefix("\ufeff").strip()
    return "" if text.lower() in ("nan", "null", "none", "<na>") else text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.just(math.nan)
    | st.text("ab\ud800\0", max_size=3) | st.sampled_from(("0.png", "no.png", "", "null")),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


def replaced(draw, value, node):
    """The value with one of its parts, drawn, replaced by another or taken away."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 9)):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = draw(st.sampled_from(list(keys)))
        changed = value.copy()
        if draw(st.integers(0, 9)):
            changed[key] = replaced(draw, value[key], node)
        else:
            del changed[key]
        return changed
    return draw(node)


@st.composite
def documents(draw, whole):
    document = whole
    for _ in range(draw(st.integers(0, 2))):
        document = replaced(draw, document, JSON)
    return edited(json.dumps(document).encode(), draw(st.lists(EDIT, max_size=1)))


def parsed(data):
    """The document, or None where it is no JSON or repeats a key."""

    def once(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key is repeated")
        return dict(pairs)

    try:
        return json.loads(data, object_pairs_hook=once)
    except (ValueError, RecursionError):
        return None


COCO = {
    "images": [{"id": n, "file_name": f"{n}.png"} for n in range(IMAGES)],
    "annotations": [{"image_id": n % IMAGES, "caption": f"said {n}"} for n in range(9)],
}
KARPATHY = {
    "images": [{"split": split, "filename": f"{n}.png",
                "sentences": [{"raw": f"{n}"}, {"raw": "x"}]}
               for n, split in enumerate(("train", "test", "restval", "train"))]
}  # fmt: skip


@tries
@hypothesis.given(data=documents(COCO))
def test_coco(images, data):
    (images / "captions.json").write_bytes(data)
    source = read(images / "captions.json", kind="coco")
    content = parsed(data)
    assert content is not None or source is None
    if source is None:
        return
    entries = [(e["id"], e["file_name"]) for e in content["images"]]
    named = [(n, f) for n, f in entries if isinstance(f, str) and clean(f)]
    said = [(a["image_id"], count(a["caption"])) for a in content["annotations"]]
    for n in range(len(source)):  # no caption of an image that is used is lost
        same = [i for i, file in named if os.path.normpath(images / file) == source[n].key]
        assert len(source.captions(n)) == sum(c or 0 for i, c in said if i in same)
    skipped = Counter(source.skipped)
    known = [i for i, _ in named]
    strays = skipped.pop("captions of no image in the file", 0)
    assert strays == sum(i not in known for i, _ in said)
    no_text = sum(skipped.pop(why) for why in list(skipped) if why.startswith("with a caption tha"))
    assert no_text == sum(c is None for i, c in said if i in known)
    assert source.account.unread["captions that are nulls"] == sum(
        c == 0 for i, c in said if i in known
    )
    assert sum(row.rows for row in source._rows) + sum(skipped.values()) == len(entries)


def count(value):
    """How many captions a value of JSON holds; None if it holds what is no text."""
    if isinstance(value, list):
        found = [count(item) for item in value]
        return None if None in found else sum(found)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return 0
    if isinstance(value, bool | dict) or (
        isinstance(value, str) and re.search("[\ud800\0]", value)
    ):
        return None
    return 1 if not isinstance(value, str) else bool(clean(value))


@tries
@hypothesis.given(data=documents(KARPATHY))
def test_karpathy(images, data):
    (images / "dataset_x.json").write_bytes(data)
    source = read(images / "dataset_x.json", kind="karpathy")
    content = parsed(data)
    assert content is not None or source is None
    if source is None:
        return
    wanted = [e for e in content["images"] if e["split"] in ("train", "restval", "training")]
    assert sum(row.rows for row in source._rows) + sum(source.skipped.values()) == len(wanted)


@tries
@hypothesis.given(
    lines=st.lists(documents({"image": "0.png", "caption": ["a", "b"], "label": 1}), max_size=4),
    edits=st.lists(EDIT, max_size=1),
)
def test_json_lines(images, lines, edits):
    data = edited(
        b"\n".join([json.dumps({"image": "1.png", "caption": "a"}).encode(), *lines]), edits
    )
    (images / "fuzz.jsonl").write_bytes(data)
    source = read(images / "fuzz.jsonl")
    if source is not None:
        rows = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
        assert all(isinstance(parsed(row), dict) for row in rows)
        assert sum(row.rows for row in source._rows) + sum(source.skipped.values()) == len(rows)
