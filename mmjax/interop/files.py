"""Files of tensors, read lazily: a mapping of name → `Tensor`, which is read when asked for.

safetensors (one file or several with an index) and .npz need nothing but NumPy; .bin and .pt need
PyTorch, which is imported only for them and never runs code that a file brings.
"""

import dataclasses
import functools
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from mmjax.data.stand_in import check_fetched
from mmjax.errors import UserError
from mmjax.interop.torchscript import is_archive, open_archive
from mmjax.interop.wrappers import state_of, unwrapped

Tensors = Mapping[str, Any]  # name → Tensor


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor in a file: its shape is known, `np.asarray(tensor)` reads it."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(), dtype=dtype)


def open_tensors(path: Path) -> Tensors:
    """The tensors of a file, by its ending; of `*.index.json`, those of the files that it names.
    Their names are the model's own: see `wrappers.py`.

    Raises:
      UserError: it is damaged or never was fetched, needs a library that is not installed, or is of
        another kind.
    """
    return unwrapped(_open(path), path)


def _open(path: Path) -> Tensors:
    check_fetched(path)
    if path.name.endswith(".index.json"):
        return _indexed(path)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix == ".npz":
        return _npz(path)
    if path.suffix in (".bin", ".pt", ".pth"):
        if is_archive(path):
            return open_archive(path)
        return of_torch(state_of(torch_load(path), path), path)
    raise UserError(f"{path} is no file of weights: .safetensors, .bin, .pt, .pth and .npz are.")


def read_json(path: Path) -> dict[str, Any]:
    """What a file of settings holds. UserError: it cannot be read, or is no JSON object."""
    check_fetched(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): get it again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON object: get it again.")
    return found


def torch_load(path: Path) -> Any:
    """What `torch.save` wrote to `path`, tensors and plain containers only, mapped from the disk.

    Raises:
      UserError: PyTorch is not installed; the file holds code, which is never run, or is damaged.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} can only be read with PyTorch, which is not installed: "
            "pip install 'mmjax[torch]', or give the same weights as safetensors."
        ) from error
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    try:
        # Only the zip files of PyTorch 1.6 and later can be mapped.
        return torch.load(path, mmap=zipfile.is_zipfile(path), **options)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise UserError(
                f"{path} holds code beside its weights, which mmjax never runs: get the weights as "
                "safetensors, or as a plain state dict."
            ) from error
        raise _damaged(path, error) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise _damaged(path, error) from error


def of_torch(state: Any, path: Path) -> Tensors:
    """A state dict of PyTorch as lazy tensors; what is no tensor (an epoch, say) is left out."""
    for name, value in state.items():
        _check_dtype(path, name, str(getattr(value, "dtype", "")).removeprefix("torch."))

    def read(tensor: Any) -> np.ndarray:
        tensor = tensor.detach()
        if str(tensor.dtype) == "torch.bfloat16":  # NumPy has none; float32 holds it exactly
            tensor = tensor.float()
        return tensor.numpy()

    return {
        name: Tensor(tuple(value.shape), functools.partial(read, value))
        for name, value in state.items()
        if hasattr(value, "detach")
    }


def _safetensors(path: Path) -> Tensors:
    try:
        file = safetensors.safe_open(path, framework="numpy")
    except (OSError, safetensors.SafetensorError) as error:
        raise _damaged(path, error) from error
    tensors = {}
    for name in file.keys():  # noqa: SIM118 (no dict)
        header = file.get_slice(name)
        _check_dtype(path, name, header.get_dtype())
        tensors[name] = Tensor(tuple(header.get_shape()), functools.partial(file.get_tensor, name))
    return tensors


def _check_dtype(path: Path, name: str, dtype: str) -> None:
    """Refuses what NumPy has no type for; `dtype` is spelled "F8_E4M3" or "float8_e4m3fn"."""
    if re.match(r"(F|float)[4678](_|$)", dtype):
        raise UserError(
            f"{path} holds {name} as {dtype}, which mmjax does not read: get the weights in "
            "bfloat16, float16 or float32."
        )


def _indexed(path: Path) -> Tensors:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        parts = {name: _open(path.with_name(name)) for name in sorted(set(index.values()))}
        return {name: parts[part][name] for name, part in index.items()}
    except (json.JSONDecodeError, KeyError, AttributeError) as error:
        raise _damaged(path, error) from error


def _npz(path: Path) -> Tensors:
    def header(archive: zipfile.ZipFile, member: str) -> tuple[int, ...]:
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0
            read = read if version == (1, 0) else np.lib.format.read_array_header_2_0
            return read(file)[0]

    try:
        file = np.load(path, allow_pickle=False)
        with zipfile.ZipFile(path) as archive:
            shapes = {name: header(archive, f"{name}.npy") for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error

    def read(name: str) -> np.ndarray:
        array = file[name]
        # NumPy writes a bfloat16 as two bytes of nothing in particular.
        return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array

    return {name: Tensor(shape, functools.partial(read, name)) for name, shape in shapes.items()}


def _damaged(path: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError) or not path.exists():
        return UserError(f"{path} is missing: copy or download the weights again.")
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return UserError(f"{path} is damaged or incomplete ({reason}): copy or download it again.")
