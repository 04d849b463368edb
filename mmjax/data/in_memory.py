"""Records that a program has itself: arrays, images of Pillow, anything that can be iterated over.

`from_records` keeps them under a name while the process lives, and gives the path of them. It goes
wherever a path of data goes: a source of a config, an evaluation.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmjax.data.account import Account, Accounted
from mmjax.data.boxes import Boxes, parse_boxes
from mmjax.data.identity import SAMPLED, digest
from mmjax.data.images import eight_bits
from mmjax.data.records import BadRecord, Record, Texts, unreadable
from mmjax.data.sounds import Waveform
from mmjax.data.texts import BadText, clean_captions, integer
from mmjax.errors import UserError

PREFIX = "records:"
_TEXTS = ("text", "caption", "captions")  # fields of a mapping that are its texts
_KEPT: dict[str, Sequence[Any]] = {}


def from_records(records: Iterable[Any], name: str = "records") -> str:
    """The path of records that this program has: "records:NAME".

    >>> import mmjax
    >>> import numpy as np
    >>> images, texts = np.zeros((2, 8, 8, 3), np.uint8), ["a cat", "a dog"]
    >>> config = mmjax.recipe("pairs")
    >>> config.data.train.pairs.path = mmjax.data.from_records(zip(images, texts))
    >>> config.data.train.pairs.path
    'records:records'

    A record is (image, text); a mapping of "image", "text" (or "caption"), "label", "group",
    "boxes" (as `boxes.parse_boxes` takes them) and what else the model's parts read; a text or an
    image alone; or a `Record`. An image is a uint8 array [H, W, 3], an image of Pillow, the bytes
    of a file or its path; a text is a string or several, one of which is drawn each time.

    What has a length and can be indexed (a list, a data set of PyTorch or Hugging Face) is read
    record by record, when each is needed; anything else that can be iterated over becomes a list.
    Worker processes (config.data.workers) each get a copy.

    Args:
      records: at least one.
      name: tells several apart; records that were given under the same name before are dropped.

    Raises:
      UserError: there are none, or the first is none of these.
    """
    is_sequence = hasattr(records, "__len__") and hasattr(records, "__getitem__")
    if isinstance(records, Mapping | str | bytes):
        raise UserError(f"records of type {type(records).__name__}: give a list of records.")
    kept: Any = records if is_sequence else list(records)
    if not len(kept):
        raise UserError("there is no record among these records: give at least one.")
    try:
        parse("records[0]", kept[0])
    except BadRecord as error:
        raise UserError(f"{error}.") from error
    except (KeyError, IndexError) as error:
        raise UserError(
            f"records[0] cannot be read ({type(error).__name__}: {error}): give a sequence of "
            'records, of a table of pandas its to_dict("records").'
        ) from error
    _KEPT[name] = kept
    return f"{PREFIX}{name}"


def open_records(path: str, name: str) -> "InMemory":
    """The records of a path that `from_records` gave."""
    key = path.removeprefix(PREFIX)
    if key not in _KEPT:
        raise UserError(
            f"{name}: {path} are records of another process: call "
            f"mmjax.data.from_records(…, {key!r}) in this one."
        )
    return InMemory(_KEPT[key], name)


class InMemory(Accounted):
    """A sequence of anything that `parse` takes. Of a list, what it does not is left out."""

    def __init__(self, records: Sequence[Any], name: str):
        self.name, self.account = name, Account()
        self._records = records
        self._numbers: Sequence[int] = range(len(records))
        self.captions_alone = isinstance(records, list | tuple)
        self.labels: np.ndarray | None = None
        if self.captions_alone:
            self._look_through()

    def _look_through(self) -> None:
        labels, numbers = [], []
        for number, given in enumerate(self._records):
            try:
                labels.append(parse("", given).label)
                numbers.append(number)
            except BadRecord as error:
                self.account.leave_out(f"whose record {str(error).strip()}", f"number {number}")
        if not numbers:
            raise UserError(f"{self.name}: no record can be used: {self.account.reasons()}.")
        self._numbers, self.labels = numbers, np.array(labels)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Record:
        record = self._parsed(index)
        images = {n: stored(record.key, x) for n, x in record.parts.items() if n == "image"}
        return replace(record, parts={**record.parts, **images})

    def captions(self, index: int) -> tuple[str, ...]:
        return self._parsed(index).captions

    def identity(self) -> str:
        """See `data/identity.py`."""
        numbers = np.linspace(0, len(self) - 1, min(SAMPLED, len(self))).astype(int)
        return digest([len(self), *(fact for n in numbers.tolist() for fact in self._facts(n))])

    def _facts(self, index: int) -> Iterable[Any]:
        try:
            record = self[index]
        except BadRecord:
            return ()
        plain = [p[0] if isinstance(p, Waveform) else p for p in record.parts.values()]
        plain = [p.facts() if isinstance(p, Boxes) else p for p in plain]
        parts = [p.tobytes() if isinstance(p, np.ndarray) else p for p in plain]
        return (*sorted(record.parts), *parts, record.label, record.group)

    def _parsed(self, index: int) -> Record:
        number = self._numbers[index]
        key = f"{self.name}: record {number}"
        try:
            given = self._records[number]
        except Exception as error:  # of another library's data set
            raise unreadable(key, error) from error
        return parse(key, given)


def parse(key: str, given: Any) -> Record:
    """A record of any form, its image as it was given. BadRecord."""
    if isinstance(given, Record):
        return given
    fields = _fields(key, given)
    found = [name for name in _TEXTS if name in fields]
    if len(found) > 1:
        raise BadRecord(f"{key} has both {found[0]} and {found[1]}")
    parts = {n: part for n, part in fields.items() if n not in (*_TEXTS, "label", "group")}
    numbers = []
    try:
        for field in ("label", "group"):
            value = integer(fields.get(field))
            numbers.append(-1 if value is None else value)
        if found:
            parts["text"] = Texts(clean_captions(fields[found[0]]))
    except BadText as error:
        raise BadRecord(f"{key} has a {found[0]} that {error}") from error
    except (ValueError, TypeError) as error:
        raise BadRecord(f"{key} has no integer as its {field}: {fields[field]!r}") from error
    if "boxes" in parts:
        try:
            parts["boxes"] = parse_boxes(parts["boxes"])
        except BadText as error:
            raise BadRecord(f"{key} has regions that {error}") from error
    if parts.get("image", 0) is None:
        raise BadRecord(f"{key} has no image")
    return Record(key, parts, *numbers)


def _fields(key: str, given: Any) -> Mapping[str, Any]:
    if isinstance(given, Mapping):
        if given and not all(isinstance(name, str) for name in given):
            raise BadRecord(f"{key} is a mapping whose names are no strings")
        return given
    if isinstance(given, str):
        return {"text": given}
    if isinstance(given, np.ndarray | Image.Image | Path | bytes):
        return {"image": given}
    if isinstance(given, tuple | list) and len(given) == 2:
        return dict(zip(("image", "text"), given, strict=True))
    raise BadRecord(
        f'{key} is {_kind(given)}: give (image, text), or a mapping of "image", "text", …'
    )


def _kind(given: Any) -> str:
    several = f" of {len(given)}" if isinstance(given, tuple | list) else ""
    return f"a {type(given).__name__}{several}"


def stored(key: str, image: Any) -> bytes | np.ndarray:
    """An image as a `Record` holds it: encoded, or uint8 [H, W, 3 or 4]. BadRecord."""
    if isinstance(image, str | Path):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise unreadable(str(image), error) from error
    if isinstance(image, bytes):
        return image
    is_plain = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3
    if is_plain and image.shape[2] in (3, 4):
        return np.asarray(image)
    try:
        opened = image if isinstance(image, Image.Image) else Image.fromarray(image)
        return np.asarray(eight_bits(opened))
    except BadRecord as error:
        raise BadRecord(f"{key} {error}") from error
    except (AttributeError, TypeError) as error:
        is_array = isinstance(image, np.ndarray)
        what = f"{image.dtype} {list(image.shape)}" if is_array else _kind(image)
        raise BadRecord(
            f"{key} has an image that is {what}: give uint8 [H, W, 3], an image of Pillow or a file"
        ) from error
