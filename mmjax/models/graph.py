"""A model: named parts, what each reads and gives, and the walk that computes just what is asked.

A part is a Linen module: a tower reads columns of the batch, a joint reads outputs of other parts.
Outputs are addressed "PART/OUTPUT", as "image/embed"; nothing here knows what an image is.
"""

import dataclasses
import inspect
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax.core import FrozenDict


class Function(NamedTuple):
    """One method of a part's module: `method(outputs, train, **inputs)` -> outputs by name.

    `reads`: argument → the column or the output ("text/tokens") that it takes; one with a default
    may be absent. `gives`: names of the outputs, of which a call may ask for some. A function that
    reads nothing gives values of the model and not of examples, such as a scale.
    """

    part: str
    method: str
    reads: tuple[tuple[str, str], ...]
    gives: tuple[str, ...]


class Call(NamedTuple):
    """A function with the values that it is called with, argument → any hashable that tells a value
    from others."""

    function: Function
    inputs: tuple[tuple[str, Any], ...]


class Plan(NamedTuple):
    """Calls in an order in which they can be made, each with the outputs that are asked of it; and
    where each output comes from: the value of a column, or (call, output)."""

    calls: dict[Call, set[str]]
    values: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Part:
    """Holds a part's module, so that Linen names its parameters by the part and not by a field."""

    module: nn.Module


class Graph(nn.Module):
    """The parts of a model by name. Parameters of the part NAME lie in "NAME/…".

    Every module has `functions(name)`, what it computes as the part `name`. It may have
    `clamp(name, params)`: of the model's parameters after an update, those that it changes to keep
    them in their range; and `conditions(name)`: outputs of other parts that the model does not
    give, as they depend on what they are compared with → the output of this part that does.
    """

    parts: Mapping[str, Part]

    def __post_init__(self):
        self.parts = FrozenDict(self.parts)  # a model is hashable: jit and caches know it by value
        super().__post_init__()

    def setup(self):
        for name, part in self.parts.items():
            setattr(self, name, part.module.clone())

    def __call__(
        self, batch: Mapping[str, jax.Array], outputs: Collection[str], train: bool = False
    ) -> dict[str, Any]:
        """Computes `outputs`, names of `self.outputs()`.

        Args:
          batch: columns [B, …]; outputs among them ("image/tokens") are taken as known.
          outputs: what to compute; nothing else is.
          train: turns on what is random in training only (rng "dropout").
        """
        calls, values = self.plan({name: name for name in batch}, outputs)
        known: dict[Any, Any] = dict(batch)
        for call, wanted in calls.items():
            known |= self.call(call, known, wanted, train)
        return {name: known[values[name]] for name in outputs}

    def call(
        self, call: Call, known: Mapping[Any, Any], outputs: Collection[str], train: bool
    ) -> dict[tuple[Call, str], Any]:
        """Makes a call of a plan, given arrays by value, for some of its outputs; by value, too."""
        part, method, _, _ = call.function
        inputs = {argument: known[value] for argument, value in call.inputs}
        found = getattr(getattr(self, part), method)(tuple(sorted(outputs)), train=train, **inputs)
        return {(call, f"{part}/{name}"): found[name] for name in outputs}

    def plan(self, columns: Mapping[str, Any], outputs: Collection[str]) -> Plan:
        """What gives `outputs`.

        Args:
          columns: column or known output → its value; a call with the same values is the same call.
          outputs: names of `self.outputs()`, or of columns.

        Raises:
          ValueError: there is no such output, or the batch lacks a column.
        """
        givers = self._givers()
        calls: dict[Call, set[str]] = {}
        values: dict[str, Any] = dict(columns)

        def visit(output: str) -> Any:
            if output in values:
                return values[output]
            if output not in givers:
                raise ValueError(f"this model has no output {output!r}: {self.lacks(output)}")
            function = givers[output]
            part = self.parts[function.part].module
            inputs = []
            for argument, source in function.reads:
                if source in values or source in givers:
                    inputs.append((argument, visit(source)))
                elif not _optional(type(part), function.method, argument):
                    raise ValueError(f"{output} needs the column {source!r} of the batch")
            call = Call(function, tuple(inputs))
            calls.setdefault(call, set()).add(output.partition("/")[2])
            values[output] = (call, output)
            return values[output]

        for output in sorted(outputs):
            visit(output)
        return Plan(calls, values)

    def outputs(self) -> tuple[str, ...]:
        """Every output that this model can give."""
        return tuple(self._givers())

    def conditioned(self) -> dict[str, str]:
        """Outputs that this model does not give, as they depend on what an example is compared with
        → the output of pairs that is there instead. `inference.cosines` compares; no index can."""
        found: dict[str, str] = {}
        for name, part in self.parts.items():
            if hasattr(part.module, "conditions"):
                found |= part.module.conditions(name)
        return found

    def lacks(self, output: str) -> str:
        """Why the model does not give an output; a clause for messages."""
        instead = self.conditioned().get(output)
        if instead is None:
            return f"it gives {', '.join(self.outputs())}"
        return f"it depends on the example that it is compared with ({instead})"

    def inputs(self) -> dict[str, tuple[str, Any]]:
        """Part → (kind of the modality that it reads, its module, which has the sizes of that).

        Modules that read columns say the kind as `modality`.
        """
        modules = {name: part.module for name, part in self.parts.items()}
        return {n: (m.modality, m) for n, m in modules.items() if hasattr(m, "modality")}

    def of_model(self, outputs: Collection[str]) -> set[str]:
        """Those of `outputs` that belong to the model and not to examples."""
        givers = self._givers()
        return {name for name in outputs if name in givers and not givers[name].reads}

    def sources(self, outputs: Collection[str], known: Collection[str]) -> set[str]:
        """The columns and known outputs that `outputs` are computed from."""
        calls, _ = self.plan({name: name for name in known}, outputs)
        return {value for call in calls for _, value in call.inputs if isinstance(value, str)}

    def module(self, part: str) -> Any:
        """The module of a part; None if there is no such part."""
        return self.parts[part].module if part in self.parts else None

    def clamp(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters after an update, each part's in its range."""
        result = dict(params)
        for name, part in self.parts.items():
            if hasattr(part.module, "clamp"):
                result |= part.module.clamp(name, result)
        return result

    def layers_above(self) -> dict[str, int]:
        """Part → layers between its outputs and the model's last one, by the longest way."""
        readers: dict[str, set[str]] = {name: set() for name in self.parts}
        for name, part in self.parts.items():
            for function in part.module.functions(name):
                for _, source in function.reads:
                    owner = source.partition("/")[0]
                    if "/" in source and owner != name:
                        readers[owner].add(name)

        def above(name: str) -> int:
            modules = {reader: self.parts[reader].module for reader in readers[name]}
            return max(
                (getattr(module, "depth", 0) + above(reader) for reader, module in modules.items()),
                default=0,
            )

        return {name: above(name) for name in self.parts}

    def _givers(self) -> dict[str, Function]:
        found = {
            f"{name}/{output}": function
            for name, part in self.parts.items()
            for function in part.module.functions(name)
            for output in function.gives
        }
        for output in self.conditioned():
            found.pop(output, None)
        return found


def _optional(module: type, method: str, argument: str) -> bool:
    parameter = inspect.signature(getattr(module, method)).parameters[argument]
    return parameter.default is not inspect.Parameter.empty
