"""Bytes by range, of files here and in object stores (gs://, s3://, http://, what fsspec knows).

Ranges that lie near each other are one request, the requests of a call go out together, and one
that fails or takes too long is tried again. What still fails is a `BadRecord` that names the file.
"""

import errno
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import fsspec

from mmjax import machine, paths
from mmjax.data.records import BadRecord, log, unreadable
from mmjax.errors import UserError
from mmjax.paths import is_url

ATTEMPTS = 3
PAUSE = 0.5  # seconds before the second attempt, twice as many before the third
GAP = 1 << 16  # bytes that are cheaper to read than to leave out
REQUEST = 1 << 25  # bytes at most of ranges that are merged
BLOCK = 1 << 22  # what `Blocks` reads at a time
CONNECTIONS = 32


class Range(NamedTuple):
    path: str
    at: int
    length: int


def expand(path: str, name: str) -> list[str]:
    """The files that a path, glob or brace range (`{000..127}`, `{a,b}`) names, in order.

    Here, what is there as it is written is taken literally (`paths.matches`). What is named without
    a wildcard need not be there. UserError: a wildcard matches nothing.
    """
    if not is_url(path):
        files = paths.matches(path)
        if not files:
            raise UserError(f"{name}: nothing at {path}, which is read as a pattern.")
        if files != [path]:
            log.info("%s: %s is read as a pattern: %d files", name, path, len(files))
        return files
    files = []
    for pattern in paths.braces(path):
        if not any(c in pattern for c in ("*[" if pattern.startswith("http") else "*?[")):
            files.append(pattern)
            continue
        matches = _glob(pattern, name)
        if not matches:
            raise UserError(f"{name}: nothing at {pattern} (from the path {path}).")
        files += matches
    return files


def stamps(paths: Sequence[str], name: str) -> list[tuple[int, str] | None]:
    """Size of each file with what changes when its content does; None where there is no file.

    UserError: the store cannot be reached.
    """
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(_stamp, paths, itertools.repeat(name)))


def read(ranges: Sequence[Range], timeout: float = 60.0) -> list[bytes | BadRecord]:
    """The bytes of each range, or why they cannot be had.

    Args:
      ranges: any number, of any files.
      timeout: seconds that a remote request may take; it is tried ATTEMPTS times.
    """
    requests = list(_merge(sorted(set(ranges))))
    wholes = [request for request, _ in requests]
    if any(is_url(request.path) for request in wholes):
        answers = _read_remote(wholes, timeout)
    else:
        answers = [_read_local(*request) for request in wholes]
    content: dict[Range, bytes | BadRecord] = {}
    for (request, parts), answer in zip(requests, answers, strict=True):
        for part in parts:
            content[part] = _cut(answer, request, part)
    return [content[wanted] for wanted in ranges]


def fetch_file(url: str) -> bytes | None:
    """A small remote file, or None if it cannot be had."""
    try:
        return fsspec.core.url_to_fs(url)[0].cat_file(url)
    except Exception:  # each store has its own kinds; whoever asks can do without
        return None


def store_file(url: str, content: bytes) -> None:
    """Writes a small remote file where that is allowed; elsewhere it is said in the log."""
    try:
        fs = fsspec.core.url_to_fs(url)[0]
        fs.makedirs(url.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(url, content)
    except Exception as error:  # each store has its own kinds
        log.info("cannot keep a copy at %s: %s", url, _reason(error))


class Blocks:
    """A remote file as something to slice from front to back, as a memory map of a local one."""

    def __init__(self, path: str, size: int, timeout: float = 60.0):
        self._path, self._size, self._timeout = path, size, timeout
        self._at, self._block = 0, b""

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        if start < self._at or stop > self._at + len(self._block):
            length = min(max(BLOCK, stop - start), self._size - start)
            (block,) = read([Range(self._path, start, length)], self._timeout)
            if isinstance(block, BadRecord):
                raise OSError(0, str(block))
            self._at, self._block = start, block
        return self._block[start - self._at : stop - self._at]


def _glob(pattern: str, name: str) -> list[str]:
    protocol = pattern.partition("://")[0]
    found = _call(lambda fs: fs.glob(pattern), pattern, name)
    return sorted(m if is_url(m) else f"{protocol}://{m.lstrip('/')}" for m in found)


def _merge(ranges: Sequence[Range]) -> Iterator[tuple[Range, list[Range]]]:
    """Requests with the ranges that they answer; `ranges` come sorted."""
    parts: list[Range] = []
    path, start, end = "", 0, 0
    for part in ranges:
        far = part.at - end > GAP or part.at + part.length - start > REQUEST
        if parts and (part.path != path or far):
            yield Range(path, start, end - start), parts
            parts = []
        if not parts:
            path, start, end = part
        parts.append(part)
        end = max(end if len(parts) > 1 else 0, part.at + part.length)
    if parts:
        yield Range(path, start, end - start), parts


def _cut(answer: bytes | BadRecord, request: Range, part: Range) -> bytes | BadRecord:
    if isinstance(answer, BadRecord):
        return answer
    at = part.at - request.at
    if at + part.length > len(answer):
        return BadRecord(f"{part.path}: ends before byte {part.at + part.length}, it changed")
    return answer[at : at + part.length]


class _Handle:
    """An open file, closed when the last reader lets go of it."""

    def __init__(self, path: str):
        self.fd = os.open(path, os.O_RDONLY)

    def __del__(self):
        if hasattr(self, "fd"):
            os.close(self.fd)


# A quarter of what may be open: the rest is for sockets, workers, checkpoints.
_handle = lru_cache(maxsize=max(1, min(256, machine.open_files() // 4)))(_Handle)


def _read_local(path: str, at: int, length: int) -> bytes | BadRecord:
    try:
        try:
            handle = _handle(path)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            _handle.cache_clear()  # others took more than their part
            handle = _handle(path)
        # `handle` is held while it is read: another thread may push it out of the cache.
        return os.pread(handle.fd, length, at)
    except OSError as error:
        return unreadable(path, error)


def _read_remote(requests: list[Range], timeout: float) -> list[bytes | BadRecord]:
    answers: list[Any] = [None] * len(requests)
    for attempt in range(ATTEMPTS):
        wanted = [n for n, answer in enumerate(answers) if not isinstance(answer, bytes)]
        if not wanted:
            break
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        with ThreadPoolExecutor(min(CONNECTIONS, len(wanted))) as pool:
            found = pool.map(_request, (requests[n] for n in wanted), itertools.repeat(timeout))
            for n, answer in zip(wanted, found, strict=True):
                answers[n] = answer
    return answers


def _request(request: Range, timeout: float) -> bytes | BadRecord:
    path, at, length = request
    try:
        fs = fsspec.core.url_to_fs(path)[0]
        options = {"timeout": timeout} if fs.async_impl else {}
        return bytes(fs.cat_file(path, start=at, end=at + length, **options))
    except Exception as error:  # each store has its own kinds
        return unreadable(path, error, _reason(error))


def _stamp(path: str, name: str) -> tuple[int, str] | None:
    try:
        if not is_url(path):
            stat = os.stat(path)
            return stat.st_size, str(stat.st_mtime_ns)
        info = _call(lambda fs: fs.info(path), path, name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{name}: {path} cannot be read: {error.strerror}.") from error
    if info.get("size") is None:
        raise UserError(f"{name}: the server of {path} does not tell its size.")
    versions = (info.get(key) for key in ("ETag", "etag", "LastModified", "mtime", "created"))
    return int(info["size"]), str(next(filter(None, versions), ""))


def _call(call: Callable[[Any], Any], path: str, name: str) -> Any:
    """call(filesystem of the path), tried again; UserError names what the user can mend."""
    try:
        fs = fsspec.core.url_to_fs(path)[0]
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{name}: {path} cannot be read ({error}); pip install 'mmjax[remote]' brings http, "
            "gs and s3."
        ) from error
    cause: BaseException | None = None
    for attempt in range(ATTEMPTS):
        try:
            return call(fs)
        except FileNotFoundError as error:
            # fsspec's http says so of everything, and has the real reason as the cause.
            if not error.__cause__ or getattr(error.__cause__, "status", 0) in (404, 410):
                raise
            reason, cause = _reason(error.__cause__), error.__cause__
        except Exception as error:  # each store has its own kinds
            reason, cause = _reason(error), error
        time.sleep(PAUSE * 2**attempt)
    raise UserError(f"{name}: {path} cannot be reached ({reason}).") from cause


def _reason(error: BaseException) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return "no answer in time" if "Timeout" in type(error).__name__ else text
