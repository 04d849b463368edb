"""Where the images are that a table names: its paths are seen from its folder, or from near it."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from mmjax.data.account import Account
from mmjax.data.tree import folders_in
from mmjax.errors import UserError

SAMPLE = 16  # images that say in which folder they are
LONGEST = 4096  # bytes of a path that an operating system takes
SHORT = 100  # characters that no encoded image has
_BASE64 = ("/9j/", "iVBORw0KGgo")  # how a JPEG and a PNG begin
_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


def no_path(text: str) -> str:
    """Why a text cannot be the path of an image, or ""."""
    if _ADDRESS.match(text) and not text.startswith("file://"):
        return "whose image is an address (URL), which img2dataset fetches"
    encoded = len(text) > SHORT and text.startswith(_BASE64)
    if encoded or len(text.encode("utf-8", "replace")) > LONGEST:
        return "whose image is a long text (base64?) in place of a path or bytes"
    return ""


def image_path(root: Path, text: str) -> Path:
    """The image that a table writes as `text`: a path from `root`, whole, or a file:// address.

    What Windows separates by \\ is found, too, unless a file is called so.
    """
    text = text.strip()
    if text.startswith("file://"):
        return Path(unquote(re.sub(r"^file://(localhost)?", "", text)))
    path = root / text
    return root / text.replace("\\", "/") if "\\" in text and not os.path.exists(path) else path


def sample(paths: Sequence[str]) -> list[str]:
    """Some of them, at even distances: one or the other may be missing."""
    picked = np.unique(np.linspace(0, len(paths) - 1, SAMPLE).astype(int)) if paths else ()
    return [paths[int(number)] for number in picked]


def how_many(folder: Path, paths: Iterable[str]) -> int:
    """How many of some paths are files, as seen from a folder."""
    return sum(os.path.isfile(image_path(folder, path)) for path in paths)


def root_of(file: Path, paths: Sequence[str], name: str, account: Account) -> Path:
    """The folder that the paths of a table are seen from: its own; or, where none of a sample is
    there, the one subfolder that has them, its parent, the present folder, or one beside its own,
    which is said.

    UserError: several subfolders have them.
    """
    own = file.parent
    some = [path for path in sample(paths) if not no_path(path)]
    if not some or how_many(own, some):
        return own
    beside = [own.parent / folder for folder in folders_in(own.parent)]  # ESC-50: meta/ and audio/
    near = ([own / folder for folder in folders_in(own)], [own.parent], [Path.cwd()], beside)
    for folders in near:
        found = [folder for folder in folders if how_many(folder, some)]
        if len(found) > 1:
            raise UserError(
                f"{name}: {some[0]} and others of {file} are not in its folder {own}, but in "
                f"{found[0].name}/ and in {found[1].name}/: write the paths as seen from the table."
            )
        if found:
            account.found.append(f"the paths of files in {file} are seen from {found[0]}")
            return found[0]
    account.found.append(
        f"of {len(some)} images of {file} that were looked for, none is there: paths are seen from "
        f"the folder of the table, {own}"
    )
    return own
