"""Filters on metadata: what they keep, and what they refuse."""

import pickle

import pytest

from mmjax.data.filters import Filter, Lacking
from mmjax.errors import UserError

VALUES = {"width": 640, "height": "320", "language": "en", "similarity": 0.31, "nsfw": None}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", True),
        ("width >= 640", True),
        ("256 <= height < 320", False),
        ("aspect < 2.5 and similarity > 0.3", True),
        ("aspect < 2 or not language in ('de', 'fr')", True),
        ("language == 'de'", False),
        ("width * height / 1000 > 200", True),
        ("caption_length == 5", True),
        ("-similarity > -0.3", False),
    ],
)
def test_an_expression_keeps_or_leaves_out(text, kept):
    wanted = pickle.loads(pickle.dumps(Filter(text, "mine")))
    assert wanted.keep(VALUES, ("a cat", "cat")) is kept


@pytest.mark.parametrize("text", ["nsfw < 0.5", "punsafe < 1", "language > 3"])
def test_a_record_without_the_field_is_said_to_lack_it(text):
    with pytest.raises(Lacking, match=r"without '(nsfw|punsafe)'|do not fit"):
        Filter(text, "mine").keep(VALUES, ())


@pytest.mark.parametrize(
    "text", ["__import__('os')", "width.real > 1", "[x for x in y]", "width =", "lambda: 1"]
)
def test_nothing_else_is_an_expression(text):
    with pytest.raises(UserError, match=r"mine: filter="):
        Filter(text, "mine")


FIELDS = {"key": "000000001", "year": "2012", "n": 7, "nsfw": "False", "safe": True, "w": "640",
          "h": "1024", "tags": ["cat", "dog"], "empty": "", "nan": float("nan")}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("key == '000000001'", True),
        ("key != '000000001'", False),
        ("key in ('000000001', '000000003')", True),
        ("key not in ('000000001', '000000003')", False),
        ("key == '1'", False),  # text is not a number
        ("key == 1", True),  # unless it meets one
        ("year == '2012' and year >= 2000", True),
        ("year in (2011, 2012)", True),
        ("n in (7, 'seven')", True),
        ("nsfw == False", True),
        ("nsfw == True", False),
        ("not nsfw", True),
        ("nsfw or safe", True),
        ("w < h", True),  # as numbers, though "640" > "1024"
        ("'cat' in tags", True),
        ("'a' not in tags", True),
        ("'0001' in key", True),
        ("w / 2 == 320", True),
    ],
)
def test_a_value_is_compared_as_what_it_meets(text, kept):
    assert Filter(text, "mine").keep(FIELDS, ()) is kept


@pytest.mark.parametrize(
    "text",
    ["n == 'seven'", "n in ('a', 'b')", "empty == ''", "nan > 0", "key", "nsfw > 3",
     "tags == 'cat'", "w / empty > 1", "3 in n"],
)  # fmt: skip
def test_what_does_not_fit_is_said_and_not_false(text):
    values = FIELDS | {"key": "a"}
    with pytest.raises(Lacking, match=r"without '(empty|nan)'|do not fit"):
        Filter(text, "mine").keep(values, ())


@pytest.mark.parametrize("text", ["key == None", "key == b'1'", "key == ..."])
def test_constants_are_numbers_texts_and_truth_values(text):
    with pytest.raises(UserError, match="may hold names, numbers"):
        Filter(text, "mine")
