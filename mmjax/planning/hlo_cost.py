"""One instruction of the text of an XLA program: its parts, its FLOPs, whom its collective joins.

    ROOT %dot.1 = f32[8,4]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}

A matrix product is a `dot`, on TPUs a `convolution`, on GPUs a call of cuBLAS.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Array(NamedTuple):
    """An array type: bytes of its elements, bytes with padding, whether in device memory."""

    dtype: str
    dims: tuple[int, ...]
    bytes: float
    stored: float
    in_hbm: bool


class Instruction(NamedTuple):
    """`arrays opcode(inside), attributes`; `arrays` is one, or a tuple type flattened."""

    arrays: tuple[Array, ...]
    opcode: str
    inside: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def kind(self) -> str:
        """The opcode; of a -start that of the work, of a send between TPU slices the collective."""
        if self.opcode != "send":
            return self.opcode.removesuffix("-start")
        between = re.search(r'_xla_megascale_transfer_type="(\w+)"', self.attributes)
        kind = between[1].lower().replace("_", "-") if between else "send"
        return "collective-permute" if kind == "one-to-one" else kind

    @property
    def results(self) -> tuple[Array, ...]:
        """The arrays it makes."""
        if self.opcode == "copy-start":  # (result, operand, context)
            return self.arrays[:1]
        if self.opcode.endswith("-start") and self.kind != "all-reduce":
            return self.arrays[len(self.operands) :]  # (operands, results, context)
        if self.target.startswith("__cu") and len(self.arrays) > 1:
            return self.arrays[:-1]  # the last is a workspace
        return self.arrays

    @property
    def target(self) -> str:
        """The name of the kernel of a custom call."""
        match = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return match[1] if match else ""

    def called(self, *keys: str) -> list[str]:
        """The computations named by these attributes."""
        found = re.findall(rf", (?:{'|'.join(keys)})=(%[\w.\-]+|\{{[^}}]*\}})", self.attributes)
        return [name for names in found for name in re.findall(r"%([\w.\-]+)", names)]

    def numbers(self, pattern: str) -> list[int]:
        """Those behind key={, or "key":[ in JSON."""
        match = re.search(rf"{pattern}\"?[=:]\s*[{{\[]([^}}\]]*)", self.attributes)
        return [int(n) for n in re.findall(r"\d+", match[1])] if match else []


def parse(text: str) -> Instruction:
    """Reads what is behind `%name = `."""
    end = _closing(text) if text.startswith("(") else text.index(" ")
    start = text.index("(", end)
    stop = start + _closing(text[start:])
    arrays = re.findall(r"(\w+)\[([^\]]*)\](?:\{([^}]*)\})?", text[:end])
    inside = text[start + 1 : stop - 1]
    return Instruction(
        tuple(_array(*array) for array in arrays),
        text[end:start].strip(),
        inside,
        tuple(re.findall(r"%([\w.\-]+)", inside)),
        text[stop:],
    )


def _closing(text: str) -> int:
    """The position behind the parenthesis that closes the first one."""
    depth = 0
    for parenthesis in re.finditer(r"[()]", text):
        depth += 1 if parenthesis[0] == "(" else -1
        if depth == 0:
            return parenthesis.end()
    raise ValueError(f"not balanced: {text[:80]}")


@functools.cache
def _array(dtype: str, dims: str, layout: str) -> Array:
    """bf16[128,64]{1,0:T(8,128)(2,1)S(1)}: axes minor to major, tile T, memory space S."""
    shape = tuple(int(size) for size in re.findall(r"\d+", dims))
    order, _, rest = layout.partition(":")
    padded = [shape[int(axis)] for axis in re.findall(r"\d+", order)] or list(shape)
    if tile := re.match(r"T\(([\d,]+)\)", rest):
        sizes = [int(size) for size in reversed(tile[1].split(","))]
        padded += [1] * (len(sizes) - len(padded))
        padded[: len(sizes)] = [
            -(-n // size) * size for n, size in zip(padded, sizes, strict=False)
        ]
    bits = re.search(r"\d+", dtype)  # none in pred, token, opaque
    width = int(bits[0]) / 8 if bits else float(dtype == "pred")
    space = re.search(r"S\((\d+)\)", rest)
    in_hbm = not space or space[1] == "0"
    return Array(dtype, shape, width * math.prod(shape), width * math.prod(padded), in_hbm)


def flops(instruction: Instruction, operands: Sequence[tuple[int, ...]]) -> float:
    """Of a matrix product, convolution or attention kernel, given the operands' shapes; else 0."""
    if instruction.kind not in ("dot", "convolution", "custom-call"):
        return 0
    target, result = instruction.target, instruction.results[0].dims
    if instruction.kind == "dot" or target.startswith("__cublas$"):
        contracted = instruction.numbers("lhs_contracting_dim(?:ension)?s")
        return 2 * math.prod(result) * math.prod(operands[0][axis] for axis in contracted)
    if instruction.kind == "convolution" or target.startswith("__cudnn$conv"):
        image, kernel, output = *operands[:2], result
        if "BackwardInput" in target:
            image, output = output, image
        elif "BackwardFilter" in target:
            kernel, output = output, kernel
        return _convolution_flops(instruction.attributes, (image, kernel, output))
    # Attention: scores and output; backward the scores once more and four gradients.
    if target.startswith("__cudnn$fmha"):
        scores = instruction.numbers('"intermediate_tensor_shape".*?"dimensions')
        products = 5 if "Backward" in target else 2
        return products * 2 * math.prod(scores) * operands[0][-1]
    splash = re.search(r"splash_mha_(fwd|dkv)", instruction.attributes)
    if splash and target == "tpu_custom_call":
        query, key = [dims for dims in operands if len(dims) == 4][:2]  # [B, heads, L, d]
        return (2 if splash[1] == "fwd" else 5) * 2 * math.prod(query) * key[2]
    return 0


def is_float32(instruction: Instruction, operands: Sequence[Array]) -> bool:
    """Whether a product takes float32 numbers as they are, unrounded: that is several times slower
    than bfloat16 (`Chip.float32_flops`)."""
    exact = re.search(r'operand_precision"?[=:]\s*[{\[]"?highest', instruction.attributes, re.I)
    return exact is not None and any(array.dtype == "f32" for array in operands[:2])


def _convolution_flops(attributes: str, shapes: Sequence[tuple[int, ...]]) -> float:
    """Counts the taps that meet a pixel: neither padding nor the holes of a dilated image.

    TPUs write the batch of a product as a spatial axis where each output has one such tap.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    window = re.search(r"window=\{([^}]*)\}", attributes)
    if not labels:
        raise ValueError(f"no dim_labels: {attributes[:80]}")
    image, kernel, output = (
        dict(zip(names, dims, strict=True))
        for names, dims in zip(labels.groups(), shapes, strict=True)
    )
    settings = dict(part.split("=") for part in window[1].split()) if window else {}

    def setting(key: str, axis: int, default: int) -> int:
        return int(settings[key].split("x")[axis].split("_")[0]) if key in settings else default

    taps = math.prod(
        _taps(
            (image[str(axis)], kernel[str(axis)], output[str(axis)]),
            setting("stride", axis, 1),
            setting("pad", axis, 0),
            (setting("lhs_dilate", axis, 1), setting("rhs_dilate", axis, 1)),
        )
        for axis in range(len(labels[1]) - 2)
    )
    # In groups, the kernel's input features and the output's batch are already those of one.
    return 2 * taps * output["b"] * output["f"] * kernel["i"]


@functools.cache
def _taps(sizes: tuple[int, int, int], stride: int, low: int, dilation: tuple[int, int]) -> int:
    """Pairs (output, tap) that meet a pixel along one axis; sizes of image, kernel, output."""
    image, kernel, output = sizes
    first = np.arange(output, dtype=np.int64) * stride - low
    taps = (first + tap * dilation[1] for tap in range(kernel))
    return sum(
        int(((p % dilation[0] == 0) & (p >= 0) & (p < image * dilation[0])).sum()) for p in taps
    )


def group(attributes: str, mesh_shape: Mapping[str, int]) -> tuple[tuple[str, ...], int]:
    """(axes along which the devices of a collective's group differ, devices in a group).

    A group of a collective-permute is a pair (source, target). Between TPU slices, all slices join,
    each a block of the flattened mesh.

    Raises:
      ValueError: the program is of more devices than the mesh.
    """
    groups = _groups(attributes, math.prod(mesh_shape.values()))
    positions = np.stack(np.unravel_index(groups, tuple(mesh_shape.values())))  # [axes, groups, g]
    differ = (positions != positions[..., :1]).any(axis=(1, 2))
    return tuple(axis for axis, d in zip(mesh_shape, differ, strict=True) if d), groups.shape[1]


def _groups(attributes: str, devices: int) -> np.ndarray:
    """Positions in the flattened mesh [groups, g], from any of XLA's notations."""
    if listed := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{.*?\})\}", attributes):
        return np.array([_integers(one) for one in listed[1].split("},{")])
    if iota := re.search(r"replica_groups=\[(.*?)\]<=(\[\S*\d[\])])", attributes):
        return _ids(iota[2]).reshape(_integers(iota[1]))
    mesh = r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((\S*)\))? \{(.*?)\}"
    if named := re.search(mesh, attributes):
        # mesh['a'=8,'b'=2] {'a':(2)4}: the mixed-radix digit of size 4 of `a`, behind one of size 2
        axes = {name: int(size) for name, size in re.findall(r"([\w.\-]+)'?=(\d+)", named[1])}
        position = np.indices(tuple(axes.values())).reshape(len(axes), -1)
        for name, before, digits in re.findall(r"([\w.\-]+)'?(?::\((\d+)\)(\d+))?", named[3]):
            size = int(digits or axes[name])
            unit = axes[name] // (int(before or 1) * size)
            axis = list(axes).index(name)
            position[axis] -= position[axis] // unit % size * unit
        groups, number = np.unique(position, axis=1, return_inverse=True)
        ids = _ids(named[2]) if named[2] else np.arange(devices)
        return ids[np.argsort(number.ravel(), kind="stable")].reshape(groups.shape[1], -1)
    if between := re.search(r'_xla_megascale_target=("\{[\d:,]+\}|\{\{.*?\}\})', attributes):
        # "{1,2}x{0:3}": slices 1 and 2; {{100002->200000}}: device 2 of slice 1, 0 of slice 2
        slices = max(_integers(between[1])) // (100_000 if "->" in between[1] else 1)
        return np.arange(devices).reshape(slices, -1).T
    return np.arange(devices)[None]  # {}: all devices


def _ids(text: str) -> np.ndarray:
    """[2,4]T(1,0) (0, 1, … in that grid, transposed) or 0,4,1,5,…"""
    grid = re.match(r"\[(.*?)\](?:T\((.*?)\))?", text)
    if not grid:
        return np.array(_integers(text))
    sizes, order = _integers(grid[1]), _integers(grid[2] or "")
    return np.arange(math.prod(sizes)).reshape(sizes).transpose(order or None).ravel()


def _integers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]
