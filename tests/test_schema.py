"""Keys are read from signatures, dataclasses and Linen modules, with all that these say."""

import dataclasses
from typing import Annotated, Any, Literal

import flax.linen as nn
import pytest

from mmjax import schema
from mmjax.errors import UserError
from mmjax.schema import RESUMABLE, SHAPE_FREE


def function(
    rate: float,
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
    assert rate == schema.Key("rate", float, schema.REQUIRED, meaning)
    assert (kind.type, kind.choices, kind.default) == (str, ("fast", "slow"), "fast")
    assert kind.meaning == bias.meaning == "Of two things."
    assert (kind.resumable, rate.resumable) == (True, False)
    assert (bias.optional, bias.type, bias.marks) == (True, float, {RESUMABLE, SHAPE_FREE})
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


BAD = {
    "not given": ("rate", None, r"config\.a\.rate must be given: How fast"),
    "type": ("rate", "x", r"config\.a\.rate='x': a float is wanted\. How fast"),
    "bool is no number": ("rate", True, "a float is wanted"),
    "choice": ("kind", "slo", r"choose one of fast, slow \(nearest: slow\)"),
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


@pytest.mark.parametrize(
    ("text", "value"), [("(1, 2)", (1, 2)), ("0.5,1", (0.5, 1)), ("", ()), ([1, 4], (1, 4))]
)
def test_texts_become_values(text, value):
    key = schema.keys_of(Derived)[1]
    assert key.parse("stages", text) == value
    with pytest.raises(UserError, match=r"config\.size='big': an int is wanted"):
        schema.keys_of(Derived)[0].parse("size", "big")


def test_description():
    rate, kind, *_ = schema.keys_of(function)
    assert rate.describe("a.rate").startswith("  config.a.rate = <float>\n      How fast")
    assert kind.describe("a.kind").endswith("Of two things. One of fast, slow.")
