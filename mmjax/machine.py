"""What a machine grants a process: open files, shared memory, folders to write, a console.

Where it is lacking, it is named as that, and nobody takes it for bad data.
"""

import codecs
import errno
import io
import os
import pwd
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from mmjax.errors import UserError

DEVICES = Path("/dev")
SHARED = DEVICES / "shm"
FEW_FILES, MANY_FILES = 1024, 65536  # open files: worth a warning; more is never needed
LITTLE_SHARED = 1 << 28  # bytes, worth a warning: a container has 64 MB if nobody says otherwise
# What JAX itself puts into the environment of what is started after it, where libtpu is installed.
_BY_JAX = {
    "TPU_LIBRARY_PATH", "TPU_SKIP_MDS_QUERY", "TPU_ML_PLATFORM", "TPU_ML_PLATFORM_VERSION",
}  # fmt: skip
_ASCII = str.maketrans({"→": "->", "×": "x", "…": "...", "–": "-", "−": "-", "·": "*", "≤": "<=",
                        "≥": ">=", "’": "'", "“": '"', "”": '"'})  # fmt: skip
_LACKS = {
    errno.EMFILE: "too many open files for this process, raise its limit: ulimit -n 4096",
    errno.ENFILE: "too many open files on this machine (sysctl fs.file-max)",
    errno.ENOSPC: "no space left on the disk",
    errno.EFBIG: "a file grew larger than this process may write (ulimit -f)",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.ENOMEM: "there is not enough memory",
}
_XDG = {name: os.environ[name] for name in os.environ if re.fullmatch(r"XDG_\w+_HOME", name)}
_SAID = {os.strerror(number): number for number in _LACKS}  # as C++ libraries quote it
_QUOTED = re.compile("|".join(sorted(_SAID, key=len, reverse=True)))


def problem(error: BaseException | None) -> str:
    """What the machine lacks that raised `error`, or what it was raised from; "" if nothing."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if isinstance(error, MemoryError):
            number = errno.ENOMEM
        if number not in _LACKS:
            said = _QUOTED.search(str(error))
            number = _SAID[said[0]] if said else None
        if number is not None:
            file = getattr(error, "filename", None)
            return _LACKS[number] + (f" ({file})" if file else "")
        if isinstance(error, RuntimeError) and "start new thread" in str(error):
            return "too many threads or processes, raise their limit: ulimit -u"
        if isinstance(error, UnicodeEncodeError) and error.encoding != "utf-8":
            return (
                f"{error.object!a} cannot be a file name in this locale ({error.encoding}), set "
                "PYTHONUTF8=1 or LC_ALL=C.UTF-8"
            )
        error = error.__cause__ or error.__context__
    return ""


def raise_problem(what: str, error: BaseException) -> None:
    """UserError: `what` could not be done for something that the machine lacks (`problem`)."""
    if lacking := problem(error):
        raise UserError(f"{what}: {lacking}.") from error


def prepare() -> None:
    """Makes the best of this process's machine; for the start of a command.

    Where libtpu is installed for `mmjax plan`, and there is no accelerator, JAX is told that there
    is none: libtpu would look for a TPU, and complain at length.

    Its limit of open files is raised as far as it may be; the console takes every text; and an
    XDG_CACHE_HOME that is empty or relative counts as not set, as its specification wants it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if "JAX_PLATFORMS" not in os.environ and not accelerators() and find_spec("libtpu"):
        os.environ["JAX_PLATFORMS"] = "cpu"
    if not os.path.isabs(os.environ.get("XDG_CACHE_HOME", "/")):
        del os.environ["XDG_CACHE_HOME"]
    if home() is None and "XDG_CACHE_HOME" not in os.environ:
        os.environ["XDG_CACHE_HOME"] = str(_temporary())  # libraries would make a folder called ~
    codecs.register_error("mmjax", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="mmjax")


def accelerators() -> bool:
    """Whether this machine has a TPU or GPU, by its device files, or a TPU by its environment."""
    files = ("accel[0-9]*", "vfio/[0-9]*", "nvidia*", "dxg", "kfd")
    of_tpu = any(name.startswith("TPU_") and name not in _BY_JAX for name in os.environ)
    return of_tpu or any(any(DEVICES.glob(pattern)) for pattern in files)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """For a text that the console's encoding lacks: our own signs as ASCII, others as \\uXXXX."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_ASCII)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


def open_files() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MANY_FILES if soft == resource.RLIM_INFINITY else soft


def home() -> Path | None:
    """The home folder; None where neither HOME nor the list of users has one."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def cache_folders() -> Iterator[Path]:
    """Folders to try for files that can be made again: that of the user, then a temporary one."""
    given, of_user = os.environ.get("XDG_CACHE_HOME", ""), home()
    if os.path.isabs(given):
        yield Path(given) / "mmjax"
    elif of_user is not None:
        yield of_user / ".cache" / "mmjax"
    temporary = _temporary()
    if temporary is not None:
        yield temporary


def cache_folder(name: str) -> Path | None:
    """The first folder `name` of those that can be written; None if none can."""
    return next((f / name for f in cache_folders() if writable(f / name)), None)


def _temporary() -> Path | None:
    try:
        return Path(tempfile.gettempdir()) / f"mmjax-{os.getuid()}"
    except FileNotFoundError:  # there is no folder for temporary files
        return None


def writable(folder: Path) -> bool:
    """Whether a file can be written to a folder, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def shared_bytes() -> int:
    """Bytes of memory that processes here can share; 0 if none."""
    from multiprocessing import shared_memory  # a tenth of a second, which `--help` need not wait

    try:
        shared_memory.SharedMemory(create=True, size=1).unlink()
        return shutil.disk_usage(SHARED).free if SHARED.exists() else sys.maxsize
    except OSError:  # there is no /dev/shm, it cannot be written, or it is full
        return 0


def problems() -> list[str]:
    """What this machine lacks that runs may stumble over, a sentence each."""
    found = []
    if open_files() < FEW_FILES:
        found.append(f"no more than {open_files()} files can be open at once: ulimit -n 4096")
    if (shared := shared_bytes()) < LITTLE_SHARED:
        found.append(
            f"{shared / 1e6:,.0f} MB of shared memory ({SHARED}) are free, data.workers may need "
            "more: docker run --shm-size=8g"
        )
    if home() is None:
        found.append("there is no home folder: set HOME")
    if (folder := next(cache_folders(), None)) is None or not writable(folder):
        found.append(f"the cache {folder} cannot be written: set HOME or XDG_CACHE_HOME")
    found += [
        f"{name} is {value!r}, not a whole path: unset it"
        for name, value in sorted(_XDG.items())
        if not os.path.isabs(value)
    ]
    given = os.environ.get("TMPDIR")
    if given and not (os.path.isdir(given) and writable(Path(given))):
        found.append(f"TMPDIR={given} cannot be written: name another folder")
    elif _temporary() is None:
        found.append("there is no folder for temporary files: set TMPDIR")
    for stream in ("stdout", "stderr"):
        if (encoding := _encoding(getattr(sys, stream))) != "utf-8":
            found.append(f"{stream} is {encoding}, signs beyond it are replaced: PYTHONUTF8=1")
    if (encoding := codecs.lookup(sys.getfilesystemencoding()).name) != "utf-8":
        found.append(f"file names are {encoding}, others cannot be opened: PYTHONUTF8=1")
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        found.append(
            f"user {os.getuid()} has no name (no entry in /etc/passwd): libraries that ask for it "
            "fail, set LOGNAME and HOME"
        )
    return found


def _encoding(stream: TextIO) -> str:
    return codecs.lookup(getattr(stream, "encoding", None) or "utf-8").name
