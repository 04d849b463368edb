"""What a config key is, and how keys are read from the code that declares them.

A function's signature or the fields of a dataclass (Linen modules are some) declare keys: the
default stands there, the annotation says the type and the range, the docstring what it means.
Everything else that needs a list of keys derives it from these declarations. `CONVENTION` says how
values read everywhere; `Key.check` refuses the others.
"""

import dataclasses
import enum
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from mmjax.errors import UserError
from mmjax.paths import typed
from mmjax.values import Values, nearest

CONVENTION = """\
0 switches off what a key asks for, or lifts its limit, where the key says "or 0"; elsewhere it is a
number like any other, or refused. -1 is all that remains, where the key says "or -1". None, '' and
() are what was not given: the key says what is taken then. Numbers are finite, and outside of its
range a key is refused before the first step. A tuple is written a,b or (a,b) or ["a","b"], and a
alone is a tuple of one; true and false are written so.
"""


class Mark(enum.Enum):
    """What `Annotated[T, MARK, ...]` may say of a key."""

    RESUMABLE = "may change when a run is resumed; of a model: changes none of its results"
    ADJUSTABLE = "may change when a run is resumed by --adjust: the new value acts from there on"
    SAME_RECORDS = "may change when a run is resumed if the records stay what they were"
    SHAPE_FREE = "changes what a model computes, and no parameter's shape shows it"
    TRAINING_ONLY = "acts while the model is trained, and in a trained one no more"
    AUXILIARY = "has parameters that only objectives read: an export of chosen parts is without"


RESUMABLE, ADJUSTABLE, SAME_RECORDS, SHAPE_FREE, TRAINING_ONLY, AUXILIARY = Mark
REQUIRED = inspect.Parameter.empty  # the default of a key that has none


@dataclasses.dataclass(frozen=True)
class Key:
    """One config key.

    Attributes:
      name: without the section that it stands in.
      values: what it may be.
      default: REQUIRED if it has none.
      meaning: one sentence.
      marks: what else was declared of it.
    """

    name: str
    values: Values
    default: Any
    meaning: str
    marks: frozenset[Mark] = frozenset()

    @property
    def type(self) -> type:
        return self.values.type

    @property
    def choices(self) -> tuple:
        return self.values.choices

    @property
    def resumable(self) -> bool:
        return RESUMABLE in self.marks

    def value(self) -> Any:
        """The default as a ConfigDict holds it, which knows the type of what is not set yet."""
        unset = self.default is None or self.default is REQUIRED
        return config_dict.placeholder(self.type) if unset else self.default

    def check(self, path: str, value: Any) -> None:
        """UserError: config.PATH is not set, of another type, outside of its range, no choice."""
        if value is None and not self.values.optional:
            raise UserError(f"config.{path} must be given: {self.meaning}")
        if problem := self.values.problem(value):
            raise UserError(f"config.{path}={value!r} must be {problem}{self._aside()}.")

    def parse(self, path: str, text: Any) -> Any:
        """The value that a text stands for, or one of a YAML file; UserError names config.PATH."""
        value = self.values.read(text)
        if self.values.problem(value):
            shown = text if isinstance(text, str) else value
            raise UserError(
                f"config.{path}={shown!r} must be {self.values.problem(value)}{self._aside()}."
            )
        return typed(value) if isinstance(value, str) else value

    def _aside(self) -> str:
        """The meaning, in brackets."""
        meaning = self.meaning.removesuffix(".")
        if meaning[1:2].islower():
            meaning = meaning[0].lower() + meaning[1:]
        return f" ({meaning})" if meaning else ""

    def describe(self, path: str) -> str:
        """Two lines: config.PATH with its default, and what it means."""
        default = f"<{self.type.__name__}>" if self.default is REQUIRED else repr(self.default)
        rule = ""
        if self.choices or self.type not in (bool, str):
            text = str(self.values)
            rule = f" {text[0].upper()}{text[1:]}."
        return f"  config.{path} = {default}\n      {self.meaning}{rule}"


Keys = tuple[Key, ...]


def keys_of(declared: Any, *marks: Mark, skip: Iterable[str] = ()) -> Keys:
    """The keys that a function's signature or a dataclass's fields declare, in order.

    Args:
      declared: the function or class. Its docstring has their meanings, as `Args:` or
        `Attributes:`, of which the first sentence is taken.
      *marks: of every key.
      skip: names of parameters that are no keys.
    """
    if isinstance(declared, type):
        meanings: dict[str, str] = {}
        for base in reversed(declared.__mro__):
            meanings |= _meanings(base.__dict__.get("__doc__"))
        found = _fields(declared)
    else:
        meanings = _meanings(declared.__doc__)
        found = (
            (p.name, p.annotation, p.default)
            for p in inspect.signature(declared).parameters.values()
        )
    skip = set(skip)
    return tuple(
        _key(name, annotation, default, meanings.get(name, ""), marks)
        for name, annotation, default in found
        if name not in skip
    )


def union(*groups: Keys) -> Keys:
    """The keys of all groups, each once; ValueError: two of one name have another default."""
    found: dict[str, Key] = {}
    for key in (key for group in groups for key in group):
        if found.setdefault(key.name, key).default != key.default:
            both = f"{found[key.name].default}, {key.default}"
            raise ValueError(f"two defaults of {key.name}: {both}")
    return tuple(found.values())


def entry(keys: Keys, values: Mapping[str, Any] | ConfigDict = types.MappingProxyType({})) -> Any:
    """A section of a config: `values` over the keys' defaults; one text for a tuple is that tuple,
    as on a command line, and several names for a text that lists them are that text."""
    node = ConfigDict({key.name: key.value() for key in keys})
    with node.unlocked():
        node.update(_given(keys, values))
    return node


def leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every key of a config; None where nothing is set."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def find(keys: Keys, path: str) -> Key:
    """The key at "SECTION.NAME" among a section's; UserError names the nearest."""
    section, dot, name = path.rpartition(".")
    for key in keys:
        if key.name == name:
            return key
    near = section + dot + nearest(name, [key.name for key in keys])
    raise UserError(f"config.{path}: there is no such key; the nearest is config.{near}.")


def checked(keys: Keys, section: str, values: Mapping[str, Any] | ConfigDict) -> Any:
    """`entry` of these values; UserError: one is of no key, or is none that its key may have."""
    given = _given(keys, values)
    for name, value in given.items():
        find(keys, path := f"{section}.{name}").check(path, value)
    return entry(keys, given)


def _given(keys: Keys, values: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    given = values.to_dict() if isinstance(values, ConfigDict) else dict(values)
    for key in keys:
        value = given.get(key.name)
        if isinstance(value, str if key.type is tuple else list | tuple):
            given[key.name] = key.values.read(value)
    return given


def kind_of(name: str, spec: Mapping[str, Any] | ConfigDict) -> str:
    """The kind of the named entry `spec` of a section: its own name unless it says another."""
    return spec.get("kind") or name


def _fields(declared: type) -> Iterator[tuple[str, Any, Any]]:
    for field in dataclasses.fields(declared):
        if field.name in ("parent", "name") and hasattr(declared, "is_initializing"):
            continue  # every Linen module has them
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield field.name, field.type, REQUIRED if default is dataclasses.MISSING else default


def _key(name: str, annotation: Any, default: Any, meaning: str, marks: tuple[Mark, ...]) -> Key:
    found = set(marks)
    if typing.get_origin(annotation) is typing.Annotated:
        found |= {mark for mark in typing.get_args(annotation) if isinstance(mark, Mark)}
    return Key(name, Values.of(annotation), default, meaning, frozenset(found))


def _meanings(docstring: str | None) -> dict[str, str]:
    """Name → first sentence of each entry of a docstring's sections Args and Attributes."""
    doc = inspect.cleandoc(docstring or "")
    found: dict[str, str] = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?:  .*\n?|\n)*)", doc, re.MULTILINE):
        for names, text in re.findall(r"^  (\w[\w, ]*): (.*(?:\n    .*)*)", section, re.MULTILINE):
            sentence = re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(text.split()))[0]
            found |= dict.fromkeys(names.split(", "), sentence)
    return found
