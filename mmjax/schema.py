"""What a config key is, and how keys are read from the code that declares them.

A function's signature or the fields of a dataclass (Linen modules are some) declare keys: the
default stands there, the annotation says the type, the docstring what it means. Everything else
that needs a list of keys derives it from these declarations.
"""

import dataclasses
import difflib
import enum
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from ml_collections import ConfigDict, config_dict

from mmjax.errors import UserError
from mmjax.paths import typed


class Mark(enum.Enum):
    """What `Annotated[T, MARK, ...]` may say of a key."""

    RESUMABLE = "may change when a run is resumed; of a model: changes none of its results"
    SAME_RECORDS = "may change when a run is resumed if the records stay what they were"
    SHAPE_FREE = "changes what a model computes, and no parameter's shape shows it"
    TRAINING_ONLY = "acts while the model is trained, and in a trained one no more"


RESUMABLE, SAME_RECORDS, SHAPE_FREE, TRAINING_ONLY = Mark
REQUIRED = inspect.Parameter.empty  # the default of a key that has none


@dataclasses.dataclass(frozen=True)
class Key:
    """One config key.

    Attributes:
      name: without the section that it stands in.
      type: of its values.
      default: REQUIRED if it has none.
      meaning: one sentence.
      choices: the values that it may have; () for any.
      optional: whether it may be None.
      marks: what else was declared of it.
    """

    name: str
    type: type
    default: Any
    meaning: str
    choices: tuple = ()
    optional: bool = False
    marks: frozenset[Mark] = frozenset()

    @property
    def wanted(self) -> str:
        """The type with its article, for messages."""
        return f"{'an' if self.type is int else 'a'} {self.type.__name__}"

    @property
    def resumable(self) -> bool:
        return RESUMABLE in self.marks

    def value(self) -> Any:
        """The default as a ConfigDict holds it, which knows the type of what is not set yet."""
        unset = self.default is None or self.default is REQUIRED
        return config_dict.placeholder(self.type) if unset else self.default

    def check(self, path: str, value: Any) -> None:
        """UserError: the value of config.PATH is not set, of another type, or no choice."""
        if value is None:
            if not self.optional:
                raise UserError(f"config.{path} must be given: {self.meaning}")
            return
        right = isinstance(value, self.type) and (self.type is bool or not isinstance(value, bool))
        if not right and not (self.type is float and type(value) is int):
            raise UserError(f"config.{path}={value!r}: {self.wanted} is wanted. {self.meaning}")
        if self.choices and value not in self.choices:
            raise UserError(
                f"config.{path}={value!r}: choose one of {', '.join(self.choices)} (nearest: "
                f"{nearest(str(value), self.choices)})."
            )

    def parse(self, path: str, text: Any) -> Any:
        """A value from a command line or a YAML file; UserError names config.PATH."""
        try:
            if self.type is tuple:
                listed = isinstance(text, list | tuple)
                parts = text if listed else str(text).strip("()[]").split(",")
                return tuple(_number(part) for part in parts if str(part).strip())
            if self.type is bool:
                return {"true": True, "false": False}[str(text).lower()]
            return typed(str(text)) if self.type is str else self.type(text)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"config.{path}={text!r}: {self.wanted} is wanted.") from error

    def describe(self, path: str) -> str:
        """Two lines: config.PATH with its default, and what it means."""
        default = f"<{self.type.__name__}>" if self.default is REQUIRED else repr(self.default)
        choices = f" One of {', '.join(self.choices)}." if self.choices else ""
        return f"  config.{path} = {default}\n      {self.meaning}{choices}"


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
    """A section of a config: `values` over the keys' defaults."""
    node = ConfigDict({key.name: key.value() for key in keys})
    with node.unlocked():
        node.update(values.to_dict() if isinstance(values, ConfigDict) else dict(values))
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


def kind_of(name: str, spec: Mapping[str, Any] | ConfigDict) -> str:
    """The kind of the named entry `spec` of a section: its own name unless it says another."""
    return spec.get("kind") or name


def nearest(name: str, known: Iterable[str]) -> str:
    """The one of `known` that is spelled most like `name`."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)[0]


def _fields(declared: type) -> Iterator[tuple[str, Any, Any]]:
    for field in dataclasses.fields(declared):
        if field.name in ("parent", "name") and hasattr(declared, "is_initializing"):
            continue  # every Linen module has them
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield field.name, field.type, REQUIRED if default is dataclasses.MISSING else default


def _key(name: str, annotation: Any, default: Any, meaning: str, marks: tuple[Mark, ...]) -> Key:
    optional, found = False, set(marks)
    choices: tuple = ()
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, *more = typing.get_args(annotation)
        found |= {mark for mark in more if isinstance(mark, Mark)}
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner: tuple[Any, ...] = typing.get_args(annotation)  # X | None
        annotation = inner[0]
        optional = True
    if typing.get_origin(annotation) is Literal:
        choices = typing.get_args(annotation)
        annotation = type(choices[0])
    kind = typing.get_origin(annotation) or annotation
    return Key(name, kind, default, meaning, choices, optional, frozenset(found))


def _meanings(docstring: str | None) -> dict[str, str]:
    """Name → first sentence of each entry of a docstring's sections Args and Attributes."""
    doc = inspect.cleandoc(docstring or "")
    found: dict[str, str] = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?:  .*\n?|\n)*)", doc, re.MULTILINE):
        for names, text in re.findall(r"^  (\w[\w, ]*): (.*(?:\n    .*)*)", section, re.MULTILINE):
            sentence = re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(text.split()))[0]
            found |= dict.fromkeys(names.split(", "), sentence)
    return found


def _number(text: Any) -> Any:
    """The number that a text is, or the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return str(text).strip()
