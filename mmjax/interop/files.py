"""Files of tensors, read lazily: a mapping of name → `Tensor`, which is read when asked for.

safetensors (one file or several with an index) and .npz need nothing but NumPy; .bin and .pt need
PyTorch, which is imported only for them and never runs code that a file brings.
"""

import dataclasses
import functools
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from mmjax.errors import UserError
from mmjax.interop.torchscript import is_archive, open_archive

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

    Raises:
      UserError: it is damaged, needs a library that is not installed, or is of another kind.
    """
    if path.name.endswith(".index.json"):
        return _indexed(path)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix == ".npz":
        return _npz(path)
    if path.suffix in (".bin", ".pt", ".pth"):
        return open_archive(path) if is_archive(path) else of_torch(_state_dict(path))
    raise UserError(f"{path} is no file of weights: .safetensors, .bin, .pt, .pth and .npz are.")


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


def _state_dict(path: Path) -> Mapping[str, Any]:
    """What `path` holds, or has under "state_dict" as trainers write it, beside an optimizer."""
    state = torch_load(path)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not a state dict of weights.")
    return state


def of_torch(state: Any) -> Tensors:
    """A state dict of PyTorch as lazy tensors; what is no tensor (an epoch, say) is left out."""

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
    return {
        name: Tensor(
            tuple(file.get_slice(name).get_shape()), functools.partial(file.get_tensor, name)
        )
        for name in file.keys()  # noqa: SIM118 (no dict)
    }


def _indexed(path: Path) -> Tensors:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        parts = {name: open_tensors(path.with_name(name)) for name in sorted(set(index.values()))}
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
