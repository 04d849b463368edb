"""What lies where a file should be that was never fetched: a git-lfs pointer, or a server's page.

Such files have the right name and the wrong content, and a parser would call them damaged.
"""

from pathlib import Path

from mmjax.errors import UserError

_POINTER = b"version https://git-lfs.github.com/spec/"
_PAGES = (b"<!doctype html", b"<html", b"<?xml version", b"<error>")
_REFUSALS = (b"entry not found", b"repository not found", b"invalid username or password",
             b"access denied", b"access to model ", b"404: not found")  # fmt: skip


def stand_in(head: bytes) -> str:
    """What the first bytes of a file (512 suffice) show it to be instead of what its name says: "a
    git-lfs pointer", "a server's page", or "" where it may be the file itself."""
    if head.startswith(_POINTER):
        return "a git-lfs pointer"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_PAGES[:2]) or text.startswith(_REFUSALS):
        return "a server's page"
    return "a server's page" if text.startswith(_PAGES[2:]) and b"<error>" in text else ""


def check_fetched(path: Path) -> None:
    """Raises a UserError where a file holds a stand-in for its content, and says how to get it."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        found = stand_in(file.read(512))
    if found == "a git-lfs pointer":
        raise UserError(
            f"{path} is a git-lfs pointer, not the file itself: run `git lfs pull` in its "
            "repository, or download the file."
        )
    if found:
        raise UserError(
            f"{path} is {found} (HTML or an error message), not the file itself: download it again "
            "from an address that needs no login."
        )
