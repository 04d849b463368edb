"""TorchScript archives, as OpenAI published CLIP: their tensors, without PyTorch and without
running the program that such an archive is.

The archive is a zip file: a pickle of the module tree, and a member a tensor. The pickle is read
with every name refused but those of tensors and containers; modules become plain dicts.
"""

import collections
import dataclasses
import functools
import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mmjax.errors import UserError

_DTYPES = {
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "ByteStorage": np.uint8,
    "CharStorage": np.int8,
    "ShortStorage": np.int16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "BoolStorage": np.bool_,
}


@dataclasses.dataclass(frozen=True)
class ArchivedTensor:
    """One tensor of an archive: its shape is known, `np.asarray(tensor)` reads it."""

    archive: Path
    member: str
    dtype: Any
    offset: int  # in elements, as the strides
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        with zipfile.ZipFile(self.archive) as file:
            flat = np.frombuffer(file.read(self.member), self.dtype)
        if 0 not in self.shape:
            spans = [(n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)]
            if min((self.offset, *self.strides)) < 0 or self.offset + sum(spans) >= flat.size:
                raise _damaged(self.archive, "a tensor reaches beyond its data")
        strides = [s * flat.itemsize for s in self.strides]
        view = np.lib.stride_tricks.as_strided(
            flat[self.offset :], self.shape, strides, writeable=False
        )
        return np.asarray(view, dtype=dtype)


def is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive; what `torch.save` writes has no constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return _member(file, "constants.pkl") is not None


def open_archive(path: Path) -> Mapping[str, ArchivedTensor]:
    """Name ("visual.conv1.weight") → tensor, parameters and buffers alike.

    Raises:
      UserError: the archive is damaged, or holds what no archive of weights holds.
    """
    try:
        with zipfile.ZipFile(path) as file:
            name = _member(file, "data.pkl")
            if name is None:
                raise _damaged(path, "it has no data.pkl")
            tree = _Unpickler(io.BytesIO(file.read(name)), path, name.rpartition("/")[0]).load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise _damaged(path, str(error) or type(error).__name__) from error
    return dict(_tensors(tree, ""))


class _Module(dict):
    """A module of the archive: attribute → value, whatever class it says it is."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.update(state)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, path: Path, root: str):
        super().__init__(file)
        self._path, self._root = path, root

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "__torch__":
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch.jit._pickle" and name.startswith("build_"):  # typed lists
            return list
        if (module, name) == ("torch.jit._pickle", "restore_type_tag"):
            return lambda value, _: value
        raise UserError(
            f"{self._path} names {module}.{name}, which no weights need and mmjax never runs: get "
            "the weights as safetensors, or as a plain state dict."
        )

    def persistent_load(self, pid: Any) -> Any:
        _, dtype, key, *_ = pid
        return functools.partial(ArchivedTensor, self._path, f"{self._root}/data/{key}", dtype)

    def _tensor(self, storage: Any, offset: int, shape: tuple, strides: tuple, *_: Any) -> Any:
        return storage(offset, tuple(shape), tuple(strides))


def _tensors(module: _Module, prefix: str) -> Any:
    for name, value in module.items():
        if isinstance(value, ArchivedTensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")


def _member(file: zipfile.ZipFile, name: str) -> str | None:
    """The member NAME of the archive's one folder."""
    return next((n for n in file.namelist() if n.partition("/")[2] == name), None)


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is damaged or incomplete ({reason}): copy or download it again.")
