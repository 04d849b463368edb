"""The kinds of parts that a model is made of, their config keys, and the model of a config.

`config.model` has a few keys of its own; every section in it is a part: NAME → {kind, own keys}.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import flax.linen as nn
import jax.numpy as jnp
from flax.core import FrozenDict
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models.graph import Graph, Part
from mmjax.parallel.mesh import platform
from mmjax.schema import RESUMABLE, Key, Keys, checked, entry, keys_of, kind_of, nearest
from mmjax.values import COUNT

Module = TypeVar("Module", bound=type[nn.Module])


@dataclasses.dataclass(frozen=True)
class Model:
    """What is no part's own. `zoo.config(NAME)` fills all in for a named architecture.

    Attributes:
      name: Name of the architecture, for logs and exports.
      embed_dim: Width of the shared embedding space.
      dtype: Compute dtype of the parts; auto: float32 on CPU, else bfloat16.
    """

    name: Annotated[str, RESUMABLE] = "custom"
    embed_dim: Annotated[int, COUNT] = 512
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"


@dataclasses.dataclass(frozen=True)
class Common:
    """What every part has.

    Attributes:
      kind: What the part is.
    """

    kind: str


class Kind(NamedTuple):
    """A kind of part."""

    module: type[nn.Module]
    keys: Keys


SECTION = keys_of(Model)
COMMON = keys_of(Common)
KINDS: dict[str, Kind] = {}
_SHARED = ("embed_dim", "dtype")  # of the model, given to every part that has such a field


def register(*kinds: str) -> Callable[[Module], Module]:
    """Adds a Linen module as these kinds of parts; its fields are the keys `config.model.NAME.*`.

    Fields `embed_dim` and `dtype` are the model's. A module may have the class attributes

      derived: (its section, config.model) → the fields named in DERIVED, which are no keys;
      check: (name, its section, config.model) → raises UserError, which names the remedy;
      SMOKE: key → what a smoke run makes of its value;

    and, where it reads columns of the batch, `modality`, the kind of modality that makes them.
    """

    def add(module: Module) -> Module:
        skip = (*_SHARED, *getattr(module, "DERIVED", ()))
        for kind in kinds:
            KINDS[kind] = Kind(module, COMMON + keys_of(module, skip=skip))
        return module

    return add


def sections(model: ConfigDict) -> dict[str, ConfigDict]:
    """The parts of `config.model` by name, in order of the names."""
    return {name: model[name] for name in sorted(model) if isinstance(model[name], ConfigDict)}


def vocabularies(model: ConfigDict) -> dict[str, ConfigDict]:
    """The parts of `config.model` that read tokens, by name: those with a vocabulary."""
    return {name: spec for name, spec in sections(model).items() if "vocab_size" in spec}


def kind_at(name: str, spec: Mapping[str, Any] | ConfigDict) -> Kind:
    """The kind of `config.model.NAME`; UserError names the nearest."""
    kind = kind_of(name, spec)
    if kind not in KINDS:
        raise UserError(
            f"config.model.{name}.kind={kind!r}: choose one of {', '.join(KINDS)} (nearest: "
            f"{nearest(kind, KINDS)})."
        )
    return KINDS[kind]


def part(kind: str, **values: Any) -> ConfigDict:
    """A part of this kind, `values` over the defaults of its keys."""
    return entry(KINDS[kind].keys, {"kind": kind, **values})


def complete(values: Mapping[str, Any] | ConfigDict) -> ConfigDict:
    """A `config.model` of these values, all others at their defaults."""
    given = values.to_dict() if isinstance(values, ConfigDict) else dict(values)
    model = entry(SECTION, {k: v for k, v in given.items() if not isinstance(v, Mapping)})
    with model.unlocked():
        for name, spec in given.items():
            if isinstance(spec, Mapping):
                kind = {"kind": kind_of(name, spec)}  # its own name, unless it says another
                model[name] = entry(kind_at(name, spec).keys, {**spec, **kind})
    return model


def of_model(model: ConfigDict) -> Iterator[tuple[str, Key, Any]]:
    """(path, key, value) of every key of `config.model`."""
    for key in SECTION:
        yield key.name, key, model[key.name]
    for name, spec in sections(model).items():
        for key in kind_at(name, spec).keys:
            yield f"{name}.{key.name}", key, spec[key.name]


def check_model(model: ConfigDict) -> None:
    """Checks that the keys of `config.model` fit each other.

    Raises:
      UserError: names the key and the remedy.
    """
    parts = sections(model)
    if not parts:
        raise UserError(
            "config.model has no part: take one of `mmjax models`, e.g. config.model = "
            "mmjax.models.zoo.config('ViT-B/32'), or add config.model.NAME = entry('model', "
            "kind=...)."
        )
    for name, spec in parts.items():
        kind = kind_at(name, spec)
        module: Any = kind.module
        if not name.isidentifier() or hasattr(Graph, name) or name in Graph.__dataclass_fields__:
            raise UserError(f"config.model.{name}: a part cannot be called {name!r}: rename it.")
        missing = [key.name for key in kind.keys if key.name not in spec]
        if missing:
            raise UserError(
                f"config.model.{name}.{missing[0]} is missing: start the part from "
                f"entry('model', kind={kind_of(name, spec)!r})."
            )
        checked(kind.keys, f"model.{name}", spec)
        if hasattr(module, "check"):
            module.check(name, spec, model)
    graph = from_config(model)
    for name, part in graph.parts.items():
        for function in part.module.functions(name):
            for _, source in function.reads:
                if "/" in source and source not in graph.outputs():
                    raise UserError(
                        f"config.model.{name} reads {source!r}, which no part of the model gives "
                        f"({', '.join(graph.outputs())}): add the part, or change its `of`."
                    )
    _check_order(graph)


def _check_order(graph: Graph) -> None:
    """UserError: parts read each other, so that there is none to begin with."""
    left = [
        function for name, part in graph.parts.items() for function in part.module.functions(name)
    ]
    while left:
        of_left = {f"{function.part}/{output}" for function in left for output in function.gives}
        rest = [f for f in left if any(source in of_left for _, source in f.reads)]
        if len(rest) == len(left):
            names = ", ".join(sorted({function.part for function in left}))
            raise UserError(
                f"config.model has parts that read each other or themselves ({names}): change the "
                "`of` of one."
            )
        left = rest


def from_config(config: ConfigDict) -> Graph:
    """Builds the model of `config.model`."""
    shared = {"embed_dim": config.embed_dim, "dtype": compute_dtype(config.dtype)}
    parts = {}
    for name, spec in sections(config).items():
        module, keys = kind_at(name, spec)
        fields = {field.name for field in dataclasses.fields(module)}
        values = {key.name: spec[key.name] for key in keys if key.name in fields}
        values |= {key: value for key, value in shared.items() if key in fields}
        if hasattr(module, "derived"):
            values |= module.derived(spec, config)
        parts[name] = Part(module(**values))
    return Graph(FrozenDict(parts))


def compute_dtype(name: str) -> jnp.dtype:
    """ "auto" is float32 on CPU, where bfloat16 is slower, and bfloat16 elsewhere."""
    if name == "auto":
        name = "float32" if platform() == "cpu" else "bfloat16"
    return jnp.dtype(name)
