"""ArrayRecord files, bare or as TFDS writes them; TensorFlow is never imported.

A bare file holds one msgpack map a record: `image` (or `video`, …: the encoded file, bytes),
`caption` (a string or a list of strings), and if wanted `label`, `group` (integers) and `key`.
"""

import contextlib
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grain
import msgpack

from mmjax import machine
from mmjax.data.account import Account, Accounted
from mmjax.data.columns import Asked
from mmjax.data.media import MEDIA
from mmjax.data.records import BadRecord, Record, pair, unreadable, weigh
from mmjax.data.repeats import Same, same_in
from mmjax.data.splits import Split
from mmjax.data.texts import clean_captions, integer
from mmjax.errors import UserError

SAMPLE = 16  # records that say which fields there are
TFDS_CAPTIONS = ("caption", "captions", "text", "title", "captions/text")


class ConvertedSource(Accounted):
    """Records of any random-access sequence, by a function that makes a `Record` of an element.

    Their content is not known before it is read, so nothing is filtered when the source is opened.
    """

    def __init__(
        self,
        open_elements: Callable[[], Any],
        convert: Callable[..., Record],
        name: str,
        classes: Sequence[str] = (),
        size: int = 0,
    ):
        self.name = name
        self.classes = tuple(classes)  # their names in order of label; () if they have none
        self._size = size  # bytes of it all
        self.account = Account()
        self._open, self._convert = open_elements, convert
        self._elements = open_elements()
        if not len(self._elements):
            raise UserError(f"{name}: there are no records.")

    def __len__(self) -> int:
        return len(self._elements)

    def __getitem__(self, index: int) -> Record:
        key = f"{self.name}: record {index}"
        try:
            return self._convert(self._elements[int(index)], key)
        except BadRecord:
            raise
        except Exception as error:  # the readers raise whatever their C++ meets
            raise unreadable(f"{key} cannot be read", error) from error

    def repeats(self) -> Same:
        """See `data/repeats.py`."""
        return same_in(self, self._size)

    def captions(self, index: int) -> tuple[str, ...]:
        return self[index].captions

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_elements": None}  # open files: a worker opens its own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._elements = self._open()


def open_array_record(files: list[str], asked: Asked, name: str) -> ConvertedSource:
    """Bare ArrayRecord files of msgpack maps; fields that were not asked for are called `caption`,
    `image` (or another of the media), `label` and `group`."""
    convert = partial(_from_msgpack, asked=asked)
    for file in files:
        if Path(file).stat().st_size == 0:
            raise UserError(f"{name}: {file} is empty; write it again or remove it.")
    elements = partial(grain.sources.ArrayRecordDataSource, files)
    try:
        size = sum(Path(file).stat().st_size for file in files)
        source = ConvertedSource(elements, convert, name, size=size)
        named = (*asked.caption.split(","), asked.image, asked.label, asked.group)
        _check_fields(elements(), named, files[0], name)
        return source
    except UserError:
        raise
    except Exception as error:  # whatever the C++ reader meets
        machine.raise_problem(f"{name}: {files[0]} cannot be read", error)
        raise UserError(f"{name}: {files[0]} is no whole ArrayRecord file ({error}).") from error


def _check_fields(elements: Any, wanted: Iterable[str], file: str, name: str) -> None:
    """UserError: none of the first records has a field that was named."""
    found: dict[str, None] = {}
    for number in range(min(SAMPLE, len(elements))):
        with contextlib.suppress(Exception):  # what cannot be read is said when it is its turn
            found |= dict.fromkeys(map(str, msgpack.unpackb(elements[number])))
    for field in filter(None, map(str.strip, wanted)):
        if found and field not in found:
            raise UserError(f"{name}: {file} has no field {field!r}; it has {', '.join(found)}.")


def write_array_record(path: str | Path, records: Iterable[Record]) -> None:
    """Writes records (with encoded images, or another of the media) as a bare ArrayRecord file."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")  # one record a chunk: random access
    for r in records:
        content: dict[str, Any] = {"key": r.key}
        content |= {media: r.parts[media] for media in MEDIA if media in r.parts}
        content |= {"caption": list(r.captions), "label": r.label, "group": r.group}
        writer.write(msgpack.packb(content))
    writer.close()


def open_tfds(
    path: str,
    split: Split,
    asked: Asked,
    name: str,
) -> ConvertedSource:
    """A dataset that TFDS has prepared with file_format="array_record".

    Args:
      path: `name[/config][:version][?data_dir=…&split=…]`, or the folder of a prepared dataset.
      split: as TFDS slices them, `train[:90%]`; where the user set none, the one in the path.
      asked: features, nested ones as `captions/text`; a label is found by its usual name, too.

    Raises:
      UserError: the dataset or split is not there, or not in the array_record format.
    """
    path, _, query = path.partition("?")
    options = dict(urllib.parse.parse_qsl(query))
    unknown = set(options) - {"data_dir", "split"}
    if unknown:
        raise UserError(f"{name}: tfds:// paths take data_dir and split, not {min(unknown)!r}.")
    split.known = True
    chosen = split.wanted or options.get("split") or split.text
    try:
        builder = _tfds_builder(path, options.get("data_dir"))
        if not builder.data_path.exists():
            raise UserError(
                f"{name}: the TFDS dataset {path} was not found in {builder.data_path}: give its "
                'data_dir, or prepare it with file_format="array_record" (imagenet2012: '
                "python -m mmjax.data.build_imagenet)."
            )
        features = sorted(builder.info.features or ())
        image = asked.image or "image"
        if image not in features:
            raise UserError(
                f"{name}: {path} has no feature {image!r}; it has {', '.join(features)}."
            )
        label = asked.label or ("label" if "label" in features else "")
        captions = asked.caption.split(",") if asked.caption else TFDS_CAPTIONS
        lacking = [c for c in captions if c.partition("/")[0] not in features]
        if asked.caption and lacking:
            raise UserError(
                f"{name}: {path} has no feature {lacking[0]!r}; it has {', '.join(features)}."
            )
        captions = [c for c in captions
                    if c not in lacking and (asked.caption or _is_text(builder, c))]  # fmt: skip
        elements = partial(_tfds_elements, path, options.get("data_dir"), chosen, image)
        found = asked._replace(image=image, label=label)
        convert = partial(_from_tfds, captions=captions, asked=found)
        feature = builder.info.features[label] if label in features else None
        classes = getattr(feature, "names", None) or ()
        return ConvertedSource(elements, convert, name, classes, int(builder.info.dataset_size))
    except UserError:
        raise
    except Exception as error:  # TFDS raises its own kinds, AssertionError, NotImplementedError, …
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"{name}: cannot read the TFDS dataset {path}, split {chosen} ({reason}); prepare it "
            'with file_format="array_record" and give its data_dir.'
        ) from error


def _tfds_builder(path: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds  # only for those who use it

    if Path(path).is_dir():
        return tfds.builder_from_directory(path)
    return tfds.builder(path, data_dir=data_dir)


def _is_text(builder: Any, path: str) -> bool:
    """Whether captions may be in a feature of a usual name: COCO's `captions` holds features."""
    feature = builder.info.features
    for name in path.split("/"):
        feature = getattr(feature, "feature", feature)  # of a sequence
        if name not in feature:
            return False
        feature = feature[name]
    return not hasattr(getattr(feature, "feature", feature), "items")


def _tfds_elements(path: str, data_dir: str | None, split: str, image: str) -> Any:
    """The examples of a split, images still encoded: decoding looks at the size that is needed."""
    from tensorflow_datasets import decode

    decoders = {image: decode.SkipDecoding()}
    return _tfds_builder(path, data_dir).as_data_source(split=split, decoders=decoders)


def _from_msgpack(data: bytes, key: str, asked: Asked) -> Record:
    values, shown = msgpack.unpackb(data), asked.image or asked.media
    if not isinstance(values, dict) or not isinstance(values.get(shown), bytes):
        raise BadRecord(f"{key} is no msgpack map with {MEDIA[asked.media].called} in {shown!r}")
    fields = (asked.caption or "caption").split(",")
    texts = weigh([clean_captions(values.get(field.strip())) for field in fields], asked.weights)
    name = f"{key} ({values['key']})" if "key" in values else key
    # These may be there without being asked for; a field that was asked for must be.
    label = _integer(values, asked.label or "label", key, optional=not asked.label)
    group = _integer(values, asked.group or "group", key, optional=not asked.group)
    return pair(name, values[shown], texts, label, group, asked.media)


def _integer(values: dict[str, Any], field: str, key: str, *, optional: bool = False) -> int:
    """-1 if no field is asked for, or one that is optional is null."""
    if not field:
        return -1
    try:
        number = integer(values.get(field))
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRecord(f"{key} has no integer in {field!r}") from error
    if number is None and not optional:
        raise BadRecord(f"{key} has no integer in {field!r}")
    return -1 if number is None else number


def _from_tfds(example: dict[str, Any], key: str, captions: list[str], asked: Asked) -> Record:
    found = [clean_captions(_nested(example, feature.split("/"))) for feature in captions]
    if isinstance(example.get("file_name"), bytes | str):  # as ImageNet's: 'n01440764_42.JPEG'
        file = example["file_name"]
        key = f"{key} ({file.decode() if isinstance(file, bytes) else file})"
    label, group = (_integer(example, field, key) for field in (asked.label, asked.group))
    return pair(key, example[asked.image], weigh(found, asked.weights), label, group)


def _nested(value: Any, path: list[str]) -> Any:
    """example["captions"]["text"], also where TFDS gives a list of dicts."""
    for name in path:
        if isinstance(value, list | tuple):
            value = [element.get(name) for element in value]
        elif isinstance(value, dict):
            value = value.get(name)
        else:
            return None
    return value
