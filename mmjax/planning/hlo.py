"""What a compiled XLA program costs a device, counted from its text (`compiled.as_text()`).

`compiled.cost_analysis()` counts the body of a loop once, knows no network, and is missing on GPUs.
Here loops count by their trips, collectives by the axes of the mesh.
"""

import collections
import dataclasses
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from mmjax.planning import hlo_cost
from mmjax.planning.hlo_cost import Instruction

SENT = {  # of a collective in a group of g: bytes a device sends, by bytes of its input
    "all-gather": lambda g: g - 1,
    "all-reduce": lambda g: 2 * (g - 1) / g,
    "reduce-scatter": lambda g: (g - 1) / g,
    "all-to-all": lambda g: (g - 1) / g,
    "collective-permute": lambda g: 1,
}
# What only names memory or orders work, and what costs as much as the computations it calls.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
FREE |= {"opt-barrier", "partition-id", "replica-id", "while", "call", "conditional", "async"}
FREE_TARGETS = {"AllocateBuffer", "ConcatBitcast", "AsyncCollectiveDone"}  # custom calls of TPUs


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of a step that are of one kind and along the same axes.

    kind: a key of SENT. axes: those along which the devices of a group differ, in mesh order.
    count: executions a step. bytes: sent by one device a step, by the best algorithm.
    """

    kind: str
    axes: tuple[str, ...]
    count: int
    bytes: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one execution, for one device.

    flops: of matrix products and convolutions; a multiply-add is two. float32_flops: those of them
    that are of float32 at the highest precision. hbm_bytes: read and written in device memory.
    collectives: one an entry (kind, axes), sorted.
    """

    flops: float
    float32_flops: float
    hbm_bytes: float
    collectives: tuple[Collective, ...]


def analyse(text: str, mesh_shape: Mapping[str, int]) -> Cost:
    """Counts what one execution costs one device.

    Approximations:
    - Each instruction or fusion reads its operands from device memory once and writes its results
      there, however well a cache would serve it, save for what lies elsewhere (memory spaces S(n):
      VMEM of TPUs, host). A slice counts, not the array it is cut from; an update counts, not the
      array it changes. On TPUs arrays count with the padding of their tiles.
    - Of a conditional, the costliest branch counts.
    - A loop whose trips cannot be read (they depend on data) counts once, with a warning.
    - FLOPs leave out elementwise arithmetic, Triton kernels, and Pallas kernels other than splash
      attention, which counts as if nothing were masked.
    - What TPU slices send each other counts as along the axes that cross all slices.

    Args:
      text: `compiled.as_text()`.
      mesh_shape: sizes of the mesh's axes by name, in its order (`mesh.shape`).

    Raises:
      ValueError: the program is of more devices than the mesh.
    """
    program = _Program(text, mesh_shape)
    total = program.tally(program.entry, False)
    collectives = (
        Collective(kind, axes, int(count), float(sent))
        for (kind, axes), (count, sent) in sorted(total.collectives.items())
    )
    return Cost(total.flops, total.float32_flops, total.hbm_bytes, tuple(collectives))


class Computation(NamedTuple):
    name: str
    instructions: dict[str, Instruction]
    root: str


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """(computations by name, the name of the entry)."""
    computations: dict[str, Computation] = {}
    current = entry = ""
    text = re.sub(r"/\*.*?\*/", "", text)
    text = re.sub(r"\n(?=\"|\}\})", " ", text)  # of a kernel's metadata, which spans lines
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            current = header[2]
            entry = current if header[1] else entry
            computations[current] = Computation(current, {}, "")
        elif line.startswith("}"):
            current = ""
        elif current and (left := re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)):
            computations[current].instructions[left[2]] = hlo_cost.parse(line[left.end() :])
            if left[1]:
                computations[current] = computations[current]._replace(root=left[2])
    return computations, entry


class _Tally:
    """A sum of costs; collectives: (kind, axes) -> [count, bytes]."""

    def __init__(self) -> None:
        self.flops = self.float32_flops = self.hbm_bytes = 0.0
        self.collectives: dict = collections.defaultdict(lambda: np.zeros(2))

    def add(self, other: "_Tally", times: int) -> None:
        self.flops += times * other.flops
        self.float32_flops += times * other.float32_flops
        self.hbm_bytes += times * other.hbm_bytes
        for key, value in other.collectives.items():
            self.collectives[key] += times * value


class _Program:
    def __init__(self, text: str, mesh_shape: Mapping[str, int]):
        self.computations, self.entry = parse(text)
        self.mesh_shape = mesh_shape
        self.tallies: dict[tuple[str, bool], _Tally] = {}

    def tally(self, name: str, fused: bool) -> _Tally:
        """One execution of a computation; a fused one leaves device memory to the fusion."""
        if (name, fused) not in self.tallies:
            computation, total = self.computations[name], _Tally()
            for result, instruction in computation.instructions.items():
                arrays = [computation.instructions[x].arrays for x in instruction.operands]
                operands = [group[0] for group in arrays if group]
                flops = hlo_cost.flops(instruction, [array.dims for array in operands])
                total.flops += flops
                if flops and hlo_cost.is_float32(instruction, operands):
                    total.float32_flops += flops
                if not fused:
                    total.hbm_bytes += self.traffic(computation, result)
                if instruction.kind in SENT and not _continues(computation, instruction):
                    # A reduce-scatter of TPUs is an all-reduce in a fusion that cuts it.
                    scatter = name.startswith("all-reduce-scatter")
                    kind = "reduce-scatter" if scatter else instruction.kind
                    axes, devices = hlo_cost.group(instruction.attributes, self.mesh_shape)
                    if axes:
                        size = sum(array.bytes for group in arrays for array in group)
                        total.collectives[kind, axes] += (1, size * SENT[kind](devices))
                for callee, times, fuses in self.calls(computation, result):
                    total.add(self.tally(callee, fused or fuses), times)
            self.tallies[name, fused] = total
        return self.tallies[name, fused]

    def calls(self, computation: Computation, name: str) -> Iterator[tuple[str, int, bool]]:
        """(computation, times, whether fused); the scalar functions of reductions are left out."""
        instruction = computation.instructions[name]
        match instruction.kind:
            case "while":
                yield instruction.called("body")[0], self.trips(computation, name), False
            case "conditional":
                keys = "branch_computations", "true_computation", "false_computation"
                tallies = {name: self.tally(name, False) for name in instruction.called(*keys)}
                yield max(tallies, key=lambda n: (tallies[n].flops, tallies[n].hbm_bytes)), 1, False
            case "call" | "async":
                yield from ((name, 1, False) for name in instruction.called("to_apply", "calls"))
            case "fusion" | "custom-call":
                called = instruction.called("calls", "called_computations")
                yield from ((name, 1, True) for name in called)

    def traffic(self, computation: Computation, name: str) -> float:
        """Bytes read and written in device memory by an instruction that is not fused."""
        instruction = computation.instructions[name]
        if instruction.kind in FREE or instruction.opcode.endswith(("-done", "-update")):
            return 0
        total = 0.0
        for position, operand in enumerate(instruction.operands):
            arrays = computation.instructions[operand].arrays
            if here := sum(array.stored for array in arrays if array.in_hbm):
                total += min(here, self.read(computation, name, position))
        written = zip(instruction.results, self.written(computation, name), strict=False)
        return total + sum(min(array.stored, size) for array, size in written if array.in_hbm)

    def read(self, computation: Computation, name: str, position: int) -> float:
        """Bytes that instruction `name` reads of the operand at `position`; inf is all of it."""
        user = computation.instructions[name]
        match user.kind:
            case "fusion":
                callee = self.computations[user.called("calls")[0]]
                return self.read_by_all(callee, _parameter(callee, position))
            case "bitcast":
                return self.read_by_all(computation, name)
            case "dynamic-slice" | "slice" | "gather" if position == 0:
                return user.results[0].stored
            case "scatter" if position == 0:
                return computation.instructions[user.operands[-1]].arrays[0].stored
            case "dynamic-update-slice" if position == 0:
                return 0
        passed = user.opcode == "tuple" or user.target in FREE_TARGETS
        return 0 if passed or _continues(computation, user) else math.inf

    def read_by_all(self, computation: Computation, name: str) -> float:
        """Bytes that the instructions of a fusion read of array `name`."""
        return sum(
            self.read(computation, user, position)
            for user, instruction in computation.instructions.items()
            for position, operand in enumerate(instruction.operands)
            if operand == name
        )

    def written(self, computation: Computation, name: str) -> list[float]:
        """Bytes written of each array that `name` results in; inf is all of it."""
        instruction = computation.instructions[name]
        operands, every = instruction.operands, len(instruction.results)
        match instruction.kind:
            case "dynamic-update-slice":
                return [computation.instructions[operands[1]].arrays[0].stored]
            case "scatter":
                return [computation.instructions[x].arrays[0].stored for x in operands[-every:]]
            case "tuple":
                return [size for x in operands for size in self.written(computation, x)]
            case "bitcast":
                return self.written(computation, operands[0])
            case "fusion":
                callee = self.computations[instruction.called("calls")[0]]
                return self.written(callee, callee.root)
        if instruction.target == "AsyncCollectiveStart":  # (operand, result, context)
            return [0.0] + [math.inf] * (every - 1)
        passed = instruction.opcode == "parameter" or instruction.target in FREE_TARGETS
        return [0.0 if passed or _continues(computation, instruction) else math.inf] * every

    def trips(self, computation: Computation, name: str) -> int:
        """How often a loop runs: as the compiler says, or read from i = a; i < b; i += c (TPUs)."""
        loop = computation.instructions[name]
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known[1])

        def first(index: int) -> int:
            carried = computation.instructions[loop.operands[0]]
            return _integer(computation, carried.operands[index])

        body, condition = (self.computations[loop.called(key)[0]] for key in ("body", "condition"))
        test = condition.instructions[condition.root]
        try:
            if "direction=LT" not in test.attributes:
                raise ValueError("not a comparison i < b")
            counter, bound = test.operands
            index = _index(condition.instructions[counter])
            start, stop = first(index), _integer(condition, bound, first)
            following = body.instructions[body.root].operands[index]
            return max(0, math.ceil((stop - start) / (_integer(body, following, first) - start)))
        except (LookupError, ValueError, ArithmeticError):
            warnings.warn(f"trips of the loop {name} cannot be read: counted once", stacklevel=2)
            return 1


def _parameter(computation: Computation, number: int) -> str:
    return next(
        name
        for name, instruction in computation.instructions.items()
        if instruction.opcode == "parameter" and instruction.inside == str(number)
    )


def _continues(computation: Computation, instruction: Instruction) -> bool:
    """Whether this is a collective that began elsewhere.

    For a collective to run beside other work, a TPU repeats it in a chain of fusions: one to start
    it, those of the other work, one to end it.
    """
    return 'chain_id="' in instruction.attributes and all(
        other.target != "AsyncCollectiveStart" for other in computation.instructions.values()
    )


def _integer(
    computation: Computation, name: str, carried: Callable[[int], int] | None = None
) -> int:
    """A scalar's value, where `carried` gives the elements of the parameter; else ValueError."""
    instruction = computation.instructions[name]
    match instruction.opcode:
        case "constant":
            return int(instruction.inside)
        case "copy" | "copy-start" | "copy-done":
            return _integer(computation, instruction.operands[0], carried)
        case "add":
            return sum(_integer(computation, x, carried) for x in instruction.operands)
        case "get-tuple-element" if carried:
            return carried(_index(instruction))
    raise ValueError(f"{name} is not constant")


def _index(element: Instruction) -> int:
    """Of a get-tuple-element."""
    match = re.search(r", index=(\d+)", element.attributes)
    if not match:
        raise ValueError(f"{element.opcode} is no element of a tuple")
    return int(match[1])
