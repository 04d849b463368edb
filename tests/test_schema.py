"""Keys are read from signatures, dataclasses and Linen modules, with all that these say."""

import dataclasses
import re
from typing import Annotated, Any, Literal

import flax.linen as nn
import pytest

from mmjax import schema
from mmjax.errors import UserError
from mmjax.schema import RESUMABLE, SHAPE_FREE
from mmjax.values import NAMES, Range, Values, split


def function(
    rate: Annotated[float, Range(0)],
    kind: Annotated[Literal["fast", "slow"], RESUMABLE] = "fast",
    bias: Annotated[float | None, RESUMABLE, SHAPE_FREE] = None,
    names: tuple[str, ...] = (),
    devices: Any = None,
):
    """Does something.

    Args:
      rate: How fast, e.g. 3.5, or
        0: not at all. This is not part of it.
      kind, bias: Of two things.

    Returns:
      names: no argument.
    """


@dataclasses.dataclass
class Base:
    """A base.

    Attributes:
      size: Side in pixels.
    """

    size: int = 224


@dataclasses.dataclass
class Derived(Base):
    """More of it.

    Attributes:
      stages: Blocks of each.
    """

    stages: tuple[int, ...] = dataclasses.field(default_factory=lambda: (1, 2))


class Module(nn.Module):
    """A module.

    Attributes:
      heads: Attention heads.
    """

    width: int
    heads: Annotated[int, SHAPE_FREE] = 12


def test_keys_of_a_function():
    rate, kind, bias, names = schema.keys_of(function, skip=("devices",))
    meaning = "How fast, e.g. 3.5, or 0: not at all."
    assert rate == schema.Key("rate", Values(float, range=Range(0)), schema.REQUIRED, meaning)
    assert (kind.type, kind.choices, kind.default) == (str, ("fast", "slow"), "fast")
    assert kind.meaning == bias.meaning == "Of two things."
    assert (kind.resumable, rate.resumable) == (True, False)
    assert (bias.values.optional, bias.type, bias.marks) == (True, float, {RESUMABLE, SHAPE_FREE})
    assert (names.type, names.default, names.meaning) == (tuple, (), "")


def test_keys_of_a_dataclass_with_its_bases():
    size, stages = schema.keys_of(Derived, RESUMABLE)
    assert (size.meaning, size.default, size.resumable) == ("Side in pixels.", 224, True)
    assert (stages.meaning, stages.default) == ("Blocks of each.", (1, 2))


def test_keys_of_a_linen_module_are_its_own_fields():
    width, heads = schema.keys_of(Module)
    assert width.default is schema.REQUIRED
    assert (heads.marks, heads.meaning) == ({SHAPE_FREE}, "Attention heads.")


def test_union_wants_one_default():
    assert [key.name for key in schema.union(schema.keys_of(Base), schema.keys_of(Derived))] == [
        "size", "stages",
    ]  # fmt: skip
    other = dataclasses.replace(schema.keys_of(Base)[0], default=1)
    with pytest.raises(ValueError, match="two defaults of size: 224, 1"):
        schema.union(schema.keys_of(Base), (other,))


def test_an_entry_has_every_key_and_what_is_not_set_has_a_type():
    keys = schema.keys_of(function, skip=("devices",))
    section = schema.entry(keys, {"kind": "slow"})
    assert section.to_dict() == {"rate": None, "kind": "slow", "bias": None, "names": ()}
    section.rate = 2.0
    with pytest.raises(TypeError):
        section.rate = "fast"
    assert dict(schema.leaves(section))["rate"] == 2.0


def test_an_entry_takes_one_text_for_a_tuple_and_a_tuple_for_a_list_of_names():
    def source(caption: Annotated[str, NAMES] = "", parts: tuple[str, ...] = ()):
        """Reads."""

    keys = schema.keys_of(source)
    section = schema.checked(keys, "a", {"caption": ("txt", "json:x"), "parts": "image/"})
    assert section.to_dict() == {"caption": "txt,json:x", "parts": ("image/",)}
    with pytest.raises(UserError, match=r"config\.a\.caption=\(1,\) must be names separated by"):
        schema.checked(keys, "a", {"caption": (1,)})


BAD = {
    "not given": ("rate", None, r"config\.a\.rate must be given: How fast"),
    "type": ("rate", "x", r"config\.a\.rate='x' must be a number of 0 or more \(how fast, e\.g\."),
    "bool is no number": ("rate", True, "must be a number"),
    "range": ("rate", -1.0, r"config\.a\.rate=-1\.0 must be a number of 0 or more"),
    "nan": ("bias", float("nan"), "must be a number, or None, finite in float32"),
    "choice": ("kind", "slo", r"must be one of fast, slow \(nearest: slow\)"),
    "tuple": ("names", ("a", 1), "must be a tuple of strings"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_named(case):
    name, value, message = BAD[case]
    key = schema.find(schema.keys_of(function), f"a.{name}")
    with pytest.raises(UserError, match=message):
        key.check(f"a.{name}", value)


def test_good_values_pass():
    for name, value in {"rate": 1, "kind": "slow", "bias": None, "names": ("a",)}.items():
        schema.find(schema.keys_of(function), name).check(name, value)


def test_unknown_key_names_the_nearest():
    with pytest.raises(UserError, match=r"config\.a\.rat: .*the nearest is config\.a\.rate\."):
        schema.find(schema.keys_of(function), "a.rat")


TEXTS = [
    (tuple[int, ...], "(1, 2)", (1, 2)),
    (tuple[int, ...], "1,2", (1, 2)),
    (tuple[int, ...], "[1,2]", (1, 2)),
    (tuple[int, ...], "5", (5,)),
    (tuple[int, ...], "(5,)", (5,)),
    (tuple[int, ...], "", ()),
    (tuple[int, ...], "()", ()),
    (tuple[int, ...], [1, 4], (1, 4)),  # of a YAML file
    (tuple[int, ...], 5, (5,)),
    (tuple[float, float], "0.5,1", (0.5, 1.0)),
    (tuple[str, ...], "a,b", ("a", "b")),
    (tuple[str, ...], "(a,b)", ("a", "b")),
    (tuple[str, ...], '["a","b"]', ("a", "b")),
    (tuple[str, ...], "('a', 'b')", ("a", "b")),
    (tuple[str, ...], "a", ("a",)),
    (tuple[str, ...], "1,true,None", ("1", "true", "None")),  # strings stay what they are
    (tuple[str, ...], '"a,b",c', ("a,b", "c")),
    (tuple[str, ...], "text/blocks/[0,1]/,image/", ("text/blocks/[0,1]/", "image/")),
    (tuple[str, ...], "(image|text)/x,(a)|(b)", ("(image|text)/x", "(a)|(b)")),
    (tuple[str, ...], r"a\(,b", (r"a\(", "b")),
    (tuple[str, ...], "dog's,cat's", ("dog's", "cat's")),
    (tuple[tuple[str, float], ...], "((image/,0.1),('text/',1))", (("image/", 0.1), ("text/", 1))),
    (tuple[tuple[str, float], ...], "(image/,0.1),", (("image/", 0.1),)),
    *(
        (Annotated[str, NAMES], text, "txt,json:x")
        for text in (
            "txt,json:x",
            "(txt, json:x)",
            '["txt","json:x"]',
            "'txt','json:x'",
            ["txt", "json:x"],
        )
    ),
    (Annotated[str, NAMES], "txt", "txt"),
    (bool, "true", True),
    (bool, "False", False),
    (bool, True, True),
    (int, "-3", -3),
    (float, "3e-4", 3e-4),
    (float, 2, 2.0),
    (float | None, "None", None),
    (str, "a,b", "a,b"),
    (str, "None", "None"),
    (str, '"quoted"', '"quoted"'),
]


@pytest.mark.parametrize(("annotation", "text", "value"), TEXTS)
def test_texts_become_values(annotation, text, value):
    read = schema.Key("k", Values.of(annotation), None, "").parse("k", text)
    assert read == value
    assert [type(x) for x in (read, *(read if isinstance(read, tuple) else ()))] == [
        type(x) for x in (value, *(value if isinstance(value, tuple) else ()))
    ]


@pytest.mark.parametrize(
    ("annotation", "text", "wanted"),
    [
        (int, "big", "an integer"),
        (int, "1.0", "an integer"),
        (int, "1e3", "an integer"),
        (int, True, "an integer"),
        (int, None, "an integer"),
        (float, "fast", "a number"),
        (float, "nan", "a number, finite in float32"),
        (bool, "1", "true or false"),
        (bool, "yes", "true or false"),
        (bool, "", "true or false"),
        (bool, 1, "true or false"),
        (str, 5, "a string"),
        (str, True, "a string"),
        (tuple[int, ...], "a,b", "a tuple of integers"),
        (tuple[int, ...], "1.5", "a tuple of integers"),
        (tuple[int, ...], {"a": 1}, "a tuple of integers"),
        (tuple[float, float], "1", "a tuple of 2 numbers"),
        (tuple[float, float], "1,2,3", "a tuple of 2 numbers"),
        (
            tuple[tuple[str, float], ...],
            "a,1",
            "a tuple of items, each a tuple (a string, a number)",
        ),
    ],
)
def test_texts_that_stand_for_nothing_are_named(annotation, text, wanted):
    with pytest.raises(UserError, match=rf"config\.a\.k=.* must be {re.escape(wanted)}\."):
        schema.Key("k", Values.of(annotation), None, "").parse("a.k", text)


def test_a_tuple_that_is_printed_reads_back():
    for value in (("a",), ("a,b", "c d"), (), ("(x|y)", "[0]", "a'b")):
        assert split(str(value)) == list(value)


def test_description():
    rate, kind, *_ = schema.keys_of(function)
    assert rate.describe("a.rate").startswith("  config.a.rate = <float>\n      How fast")
    assert rate.describe("a.rate").endswith(" A number of 0 or more.")
    assert kind.describe("a.kind").endswith("Of two things. One of fast, slow.")
