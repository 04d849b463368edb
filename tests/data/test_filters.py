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
