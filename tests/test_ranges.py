"""Every declared key has its range beside its declaration, and a value outside of it stops a run
before the first step in one sentence."""

import dataclasses
import re
from typing import Annotated

import pytest

from mmjax import config as config_lib
from mmjax import config_check, models, schema
from mmjax.errors import UserError
from mmjax.models import parts
from mmjax.values import BITS_32, Range, Values

UNDER_SECTIONS = {
    f"{section}.{key.name}".lstrip("."): key
    for section, keys in config_lib.SECTIONS.items()
    for key in keys
}
# An entry of each kind is named after it.
UNDER_ENTRIES = {
    f"{section}.{kind}.{key.name}": key
    for section in config_lib.ENTRIES
    for kind, keys in (config_lib.kinds(section) or {"some": config_lib.ENTRIES[section]}).items()
    for key in keys
}
KEYS = UNDER_SECTIONS | UNDER_ENTRIES
# Other tests register kinds while they run.
KINDS = {section: tuple(config_lib.kinds(section)) for section in config_lib.ENTRIES}


def numbers(values: Values) -> list[Values]:
    """What is a number in these values, items of tuples included."""
    inside = [number for item in values.items for number in numbers(item)]
    return [values] if values.type in (int, float) and not values.choices else inside


def undeclared(values: Values) -> bool:
    return any(number.range is None for number in numbers(values))


def outside(number: Values):
    """Numbers of the key's type that are not in its range."""
    of, bounds = number.type, number.range
    step = 1 if of is int else 1e-3
    for bound, beyond in ((bounds.least, -step), (bounds.most, step)):
        if bound is not None and not bounds.has(of(bound + beyond)):
            yield of(bound + beyond)
    for bound in (bounds.above, bounds.below):
        if bound is not None and not bounds.has(of(bound)):
            yield of(bound)
    for low in (-1, -5, -BITS_32):
        if not bounds.has(low):
            yield of(low)
    yield from (
        (BITS_32 + 1, -BITS_32 - 1, 10**30) if of is int else (float("nan"), float("inf"), 1e39)
    )
    yield from (True, "1") if of is float else (True, "1", 1.5)


def cases():
    """(path, a value that the key must not have)"""
    for path, key in KEYS.items():
        values, default = key.values, key.default
        if values.type is not tuple:
            if values.type is int and values.choices:
                yield from ((path, value) for value in (max(values.choices) + 1, -1, True))
                continue
            wrong = {bool: (1, "true"), str: (5, True, ("a",))}
            bad = outside(values) if values.type in (int, float) else wrong[values.type]
            yield from ((path, value) for value in bad)
            continue
        first = next(iter(default), None)
        yield from ((path, bad) for bad in (5, "a,b", (None,), ((1,),)))
        if not values.any_length:
            yield path, (*default, first)
        if values.items[0].type in (int, float):
            size = 1 if values.any_length else len(values.items)
            yield from ((path, (bad,) * size) for bad in outside(values.items[0]))
        if any(form.text == "in ascending order" for form in values.forms):
            yield path, (2, 1)


@pytest.fixture(scope="module")
def config():
    """A config with an entry of every kind, whose keys are then the walked ones."""
    config = config_lib.default()
    for section in config_lib.ENTRIES:
        kinds = KINDS[section]
        for kind in kinds or ("some",):
            values = {"kind": kind} if kinds else {}
            config_lib.config_at(config, section)[kind] = config_lib.entry(section, **values)
    with config.unlocked():
        for path, _ in schema.leaves(config):
            if path.endswith(".path"):
                config_lib.config_at(config, path.removesuffix(".path")).path = "some.csv"
    return config


def test_the_walk_meets_every_key(config):
    assert {path for path, _ in schema.leaves(config)} == KEYS.keys()
    assert len(KEYS) > 250


@pytest.mark.parametrize("path", KEYS)
def test_a_number_has_a_range_and_the_default_is_in_it(path):
    key = KEYS[path]
    assert not undeclared(key.values)
    if key.default is not schema.REQUIRED:
        assert not key.values.problem(key.default)


def test_a_number_without_a_range_would_be_found():
    @dataclasses.dataclass
    class Bare:
        size: int = 1
        shares: tuple[float, ...] = ()
        scales: tuple[tuple[str, float], ...] = ()
        name: str = ""
        pair: Annotated[tuple[int, int], Range(1)] = (1, 2)

    found = [key.name for key in schema.keys_of(Bare) if undeclared(key.values)]
    assert found == ["size", "shares", "scales"]


@pytest.mark.parametrize("path", KEYS)
def test_what_0_minus_1_and_none_mean_is_said(path):
    key = KEYS[path]
    also = [x for number in numbers(key.values) for x in number.range.also]
    for value in [*also, *([None] if key.values.optional else [])]:
        assert f"{value}:" in key.meaning, (
            f"config.{path} says {value} of its own, but not what for"
        )


def test_values_outside_are_refused_in_a_sentence(config):
    """By `validate`, the first thing that a run does."""
    whole = config_lib.to_json(config)
    for path, bad in cases():
        section, _, name = path.rpartition(".")
        node = config_lib.config_at(config, section)
        before = dict(node.items())[name]
        with config.unlocked():
            del node[name]  # or what was there says of which type it must be
            node[name] = bad
            try:
                config_check.validate(config)
            except UserError as error:
                said = str(error)
            else:
                said = ""
            del node[name]
            node[name] = before
        expected = re.escape(f"config.{path}={bad!r} must be ")
        if not (isinstance(bad, str) and KEYS[path].choices):
            assert re.match(expected, said), (path, bad, said)
        assert said.endswith(".")
        assert "\n" not in said
    assert config_lib.to_json(config) == whole


@pytest.mark.parametrize("path", [path for path, key in KEYS.items() if key.choices])
def test_choices_are_named(path):
    near = ".*near" if all(isinstance(choice, str) for choice in KEYS[path].choices) else ""
    with pytest.raises(
        UserError, match=rf"config\.{re.escape(path)}='nosuch' must be one of {near}"
    ):
        KEYS[path].check(path, "nosuch")


CASES = ["optim.grad_clip=-1", "log.every=0", "optim.microbatches=0", "batch_size=0",
         "batch_size=-8", "data.workers=-1", "data.augment.crop_scale=(1.0,0.5)",
         "checkpoint.keep=0", "data.max_bad=5", "optim.lr=nan", "optim.lr=-0.001",
         "total_steps=-5"]  # fmt: skip


@pytest.mark.parametrize("option", CASES)
def test_reported_values_are_refused_on_the_command_line(option):
    config = config_lib.default()
    path, _, text = option.partition("=")
    with pytest.raises(UserError, match=rf"config\.{path}='.*' must be an? .*\(.*\)\.$"):
        config_lib.set_key(config, path, text)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("optim.eps", 1e-50, "above 0"),  # is 0 in float32
        ("optim.b1", 1 - 1e-12, "of 0 or more and below 1"),  # is 1
        ("optim.freeze", ("image/(",), "regular expressions"),
        ("optim.lr_scale", (("text/", -1.0),), "a number of 0 or more"),
        ("mesh.data", 0, "of 1 or more, or -1"),
        ("model.part.bias", float("nan"), "or None, finite in float32"),
    ],
)
def test_what_is_allowed_is_said(name, value, allowed):
    keys = UNDER_SECTIONS | {"model.part.bias": UNDER_ENTRIES["model.scale.bias"]}
    with pytest.raises(UserError, match=re.escape(allowed)):
        keys[name].check(name, value)


def test_sources_evaluators_and_objectives_opened_from_python_are_checked(tmp_path):
    from mmjax import evaluation, objectives
    from mmjax.data import open_source

    with pytest.raises(UserError, match=r"bad_shards=2\.0 must be a number from 0 to 1"):
        open_source({"path": str(tmp_path), "bad_shards": 2.0})
    with pytest.raises(UserError, match=r"timeout='soon' must be a number above 0"):
        open_source({"path": str(tmp_path), "timeout": "soon"})
    spec = {"kind": "knn", "path": "x", "k": 0}
    with pytest.raises(
        UserError, match=r"config\.evals\.near\.k=0 must be an integer of 1 or more"
    ):
        evaluation.build("near", spec, None)
    entries = config_lib.default().objectives
    entries.mine = config_lib.entry("objectives", kind="infonce", queue=-1)
    with pytest.raises(UserError, match=r"mine\.queue=-1 must be an integer of 1 or more, or 0"):
        objectives.build(entries)


def test_models_made_from_python_are_checked():
    model = models.zoo.config("tiny")
    model.image.depth = -1
    with pytest.raises(UserError, match=r"config\.model\.image\.depth=-1 must be an integer of 0"):
        parts.check_model(model)
