"""Every file under a folder, through links, each of them used or counted."""

import os
from collections.abc import Iterator
from pathlib import Path

from mmjax import machine
from mmjax.data.account import Account
from mmjax.data.contents import is_left_by_system

INDEX_FOLDER = ".mmjax"  # where mmjax itself keeps what it has found out about data


def files_under(folder: Path, account: Account) -> list[Path]:
    """Every file under a folder at any depth, sorted; links are followed, once round a cycle.

    Hidden folders and what systems leave (._x, .DS_Store, __MACOSX, Thumbs.db) are passed over and
    counted in `account`. A link that leads nowhere is a file that is missing.
    """
    return sorted(walk(folder, account))


def walk(folder: Path, account: Account) -> Iterator[Path]:
    """What `files_under` gives, as it is found."""
    status = os.stat(folder)
    return map(Path, _walk(str(folder), {(status.st_dev, status.st_ino)}, account))


def folders_in(folder: Path) -> list[str]:
    """The names of the folders in a folder that `files_under` enters, sorted."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if _is_folder(e) and not _passed(e.name))


def passed_over(member: str) -> str:
    """Why a file with this path in a folder or an archive is passed over, or ""."""
    *folders, name = (part for part in member.split("/") if part not in ("", ".", ".."))
    reasons = [_passed(folder) for folder in folders]
    reasons.append("left by the system" if is_left_by_system(name) else "")
    return next(filter(None, reasons), "")


def _passed(name: str) -> str:
    """Why a folder is not entered, or ""."""
    if is_left_by_system(name):
        return "left by the system"
    return "hidden folders" if name.startswith(".") else ""


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _walk(folder: str, above: set[tuple[int, int]], account: Account) -> Iterator[str]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        machine.raise_problem(f"{folder} cannot be read", error)
        account.leave_out(f"folders that cannot be opened ({error.strerror})", folder)
        return
    for entry in entries:
        if _is_folder(entry):
            if entry.name == INDEX_FOLDER:
                continue
            status = entry.stat()
            mark = (status.st_dev, status.st_ino)
            if _passed(entry.name):
                account.pass_over(_passed(entry.name), entry.path)
            elif mark in above:
                account.pass_over("links to a folder that they are in", entry.path)
            else:
                yield from _walk(entry.path, above | {mark}, account)
        elif is_left_by_system(entry.name):
            account.pass_over("left by the system", entry.path)
        else:
            yield entry.path
