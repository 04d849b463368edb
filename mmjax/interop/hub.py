"""Weights by a hub name: what is on this machine first, else downloaded once."""

import fnmatch
from collections.abc import Iterable
from pathlib import Path

from mmjax.errors import UserError

_SMALL = ("*.json", "*.txt", "*.model")  # configs and tokenizers
# The first of these that a repository has is fetched, with the shards that an index names.
_WEIGHTS = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*.safetensors"),
    ("open_clip_model.safetensors",),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*.bin"),
    ("open_clip_pytorch_model.bin",),
)


def fetch(name: str) -> Path:
    """The folder of a repository on the Hugging Face hub ("openai/clip-vit-base-patch32").

    Raises:
      UserError: there is no such repository, it has no weights, or the hub cannot be reached.
    """
    # Half a second to import: only where needed.
    from huggingface_hub import HfApi, snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        if any((folder / files[0]).exists() for files in _WEIGHTS):
            return folder
    except Exception:  # not here yet, or no name of a repository: the hub will say
        pass
    try:
        info = HfApi().model_info(name, timeout=10)
        files = wanted(file.rfilename for file in info.siblings or ())
        if files:
            return Path(snapshot_download(name, allow_patterns=files))
    except Exception as error:  # each kind of failure has its own class, and offline mode, too
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"No file or folder {name!r}, and the Hugging Face Hub did not provide it ({reason}): "
            "name a folder of weights, or fetch them where there is a network with "
            f"`hf download {name} --local-dir DIR`."
        ) from error
    raise UserError(f"{name!r} on the hub holds no weights that mmjax knows by name.")


def wanted(files: Iterable[str]) -> list[str]:
    """Which of a repository's files are needed; none if it has no known weights."""
    files = list(files)
    for first, *others in _WEIGHTS:
        if first in files:
            patterns = (*_SMALL, first, *others)
            return [f for f in files if any(fnmatch.fnmatch(f, p) for p in patterns)]
    return []
