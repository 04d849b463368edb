"""Where the index of tar shards is kept: on disk, and beside remote shards.

Its name tells the shards' sizes and times, so that a stale one is not found.
"""

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mmjax import machine
from mmjax.data.records import log
from mmjax.data.storage import fetch_file, is_url, store_file
from mmjax.data.tar_index import INDEX_VERSION, ShardIndex, Stamp
from mmjax.data.tar_pair import Fields
from mmjax.errors import UserError


def index_name(
    shards: Sequence[str], stamps: Sequence[Stamp], fields: Fields, max_bad: float
) -> str:
    """The name of the index file tells what it was made from, so that a stale one is not found."""
    folder = os.path.dirname(shards[0])
    beside = [os.path.relpath(s, folder) if not is_url(s) else s for s in shards]
    wanted: tuple = (*fields[:3], fields.filter.text, max_bad)
    if fields.tags or fields.media == "regions":
        wanted += (fields.tags, fields.media == "regions")  # as kept indices are called
    if fields.media not in ("image", "regions"):
        wanted += (fields.media,)
    if fields.boxes:
        wanted += ("boxes", fields.boxes)
    what = repr((INDEX_VERSION, wanted, list(zip(beside, stamps, strict=True))))
    return f"{hashlib.sha256(what.encode()).hexdigest()[:24]}.npy"


def find_index(beside: str, file_name: str) -> Path | None:
    """An index that was kept, here or beside remote shards."""
    folders = _folders(beside)
    for folder in folders:
        if (folder / file_name).exists():
            return folder / file_name
    if not is_url(beside):
        return None
    for suffix in (".json", ".npy"):  # the .npy file last, as in write_index
        file = Path(file_name).with_suffix(suffix)
        content = fetch_file(f"{beside}/.mmjax/{file}")
        if content is None or _keep({file.name: content}, folders) is None:
            return None
    return find_index(folders[0].as_posix(), file_name)


def write_index(index: ShardIndex, beside: str, file_name: str) -> Path:
    """Keeps an index where there is room for it; UserError: nowhere."""
    summary = json.dumps(index.account.to_json() | {"same": list(index.same.items())}).encode()
    file = io.BytesIO()
    np.save(file, index.rows)
    # The .npy file comes last and is renamed into place: who finds it finds both, whole.
    files = {str(Path(file_name).with_suffix(".json")): summary, file_name: file.getvalue()}
    path = _keep(files, _folders(beside))
    if path is None:
        tried = ", ".join(map(str, _folders(beside)))
        raise UserError(
            f"There is no folder to keep the index of the shards in (tried {tried}): set "
            "XDG_CACHE_HOME to one that can be written."
        )
    if is_url(beside):
        for name, content in files.items():
            store_file(f"{beside}/.mmjax/{name}", content)
    return path


def _folders(beside: str) -> list[Path]:
    elsewhere = list(machine.cache_folders())
    return elsewhere if is_url(beside) else [Path(beside) / ".mmjax", *elsewhere]


def _keep(files: Mapping[str, bytes], folders: Sequence[Path]) -> Path | None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                part = folder / f"{name}.{os.getpid()}.part"
                part.write_bytes(content)
                part.rename(folder / name)
            return folder / name
        except OSError as error:
            log.info("cannot keep the index in %s: %s", folder, error.strerror)
    return None
