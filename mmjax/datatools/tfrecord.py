"""TFRecord files of tf.train.Example, read once from front to back, without TensorFlow.

A file is length (uint64), masked CRC-32C of it, the bytes, masked CRC-32C of them, again and again
(tensorflow/core/lib/io/record_writer.h). The check of the lengths is made, it tells where a file is
damaged; that of the bytes would take longer in Python than decoding the image, and is not.
"""

import gzip
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from tensorboardX.crc32c import crc32c

from mmjax.data.records import BadRecord, Record, Texts, pair
from mmjax.data.texts import BadText, clean_captions
from mmjax.errors import UserError

IMAGES = ("image/encoded", "image", "image_raw", "jpg", "png")
CAPTIONS = ("caption", "captions", "image/caption", "text", "txt")
LABELS = ("image/class/label", "label", "class")
MAX_LENGTH = 1 << 31

Example = dict[str, list[Any]]  # feature → bytes, floats or integers


def read_tfrecords(
    files: Sequence[str], image: str = "", caption: str = "", label: str = ""
) -> Iterator[Record | BadRecord]:
    """The examples of the files in order. UserError: a file is damaged, or is no TFRecord.

    `image`, `caption` (several, comma-separated) and `label` name features; "" finds them.
    """
    for file in files:
        for number, data in enumerate(read_frames(file)):
            key = f"{file}: example {number}"
            try:
                example = parse_example(data)
                yield _record(example, key, image, caption, label)
            except BadRecord as error:
                yield error
            except (IndexError, UnicodeDecodeError, BadText, struct.error) as error:
                yield BadRecord(f"{key} is no tf.train.Example ({error})")


def read_frames(file: str) -> Iterator[bytes]:
    """The records of a TFRecord file, gzipped or not. UserError: it is damaged."""
    with _open(file) as stream:
        number = 0
        while head := stream.read(12):
            if len(head) < 12:
                raise UserError(f"{file} is cut off after {number} examples.")
            length, check = struct.unpack("<QI", head)
            if _masked(crc32c(head[:8])) != check or length > MAX_LENGTH:
                what = f"is damaged after {number} examples" if number else "is no TFRecord file"
                raise UserError(f"{file} {what}.")
            data = stream.read(length + 4)
            if len(data) < length + 4:
                raise UserError(f"{file} is cut off after {number} examples.")
            number += 1
            yield data[:-4]


def parse_example(data: bytes) -> Example:
    """A tf.train.Example (tensorflow/core/example/example.proto) as a dict of lists."""
    example: Example = {}
    for features in _fields(data, 1):
        for entry in _fields(features, 1):
            key = b"".join(_fields(entry, 1)).decode()
            example[key] = []
            for feature in _fields(entry, 2):
                for values in _fields(feature, 1):  # bytes_list
                    example[key] += _fields(values, 1)
                for values in _fields(feature, 2):  # float_list
                    for packed in _fields(values, 1):
                        example[key] += struct.unpack(f"<{len(packed) // 4}f", packed)
                for values in _fields(feature, 3):  # int64_list
                    for packed in _fields(values, 1):
                        example[key] += _varints(packed)
    return example


def _record(example: Example, key: str, image: str, caption: str, label: str) -> Record:
    found = next((example[f] for f in ((image,) if image else IMAGES) if example.get(f)), None)
    if not found or not isinstance(found[0], bytes):
        raise BadRecord(f"{key} has no image in {image or ', '.join(IMAGES)}; it has "
                        f"{', '.join(sorted(example)) or 'no feature'}")  # fmt: skip
    captions: tuple[str, ...] = ()
    for feature in caption.split(",") if caption else CAPTIONS:
        captions += clean_captions(example.get(feature))
    labels = next((example[f] for f in ((label,) if label else LABELS) if example.get(f)), [-1])
    if not isinstance(labels[0], int):
        raise BadRecord(f"{key} has a label that is no integer")
    return pair(key, found[0], Texts(captions), labels[0])


def _open(file: str) -> BinaryIO:
    try:
        with open(file, "rb") as stream:
            zipped = stream.read(2) == b"\x1f\x8b"
        return cast(BinaryIO, gzip.open(file)) if zipped else Path(file).open("rb")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _fields(data: bytes, wanted: int) -> list[bytes]:
    """The values of a field of a protocol buffer message; numbers as the bytes they lie in."""
    found, at = [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        start = at
        match tag & 7:
            case 0:
                _, at = _varint(data, at)
            case 1:
                at += 8
            case 2:
                length, start = _varint(data, at)
                at = start + length
            case 5:
                at += 4
            case kind:
                raise IndexError(f"a field of kind {kind}")
        if at > len(data):
            raise IndexError("a field that is cut off")
        if tag >> 3 == wanted:
            found.append(data[start:at])
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _varints(data: bytes) -> list[int]:
    values, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        values.append(value - (1 << 64) if value >> 63 else value)
    return values
