"""What a model reads of a record beside its picture and caption: region features, and object tags.

Region features are those of an object detector, as Oscar (Li et al., 2020) and VinVL (Zhang et al.,
2021) publish them: float [n, F] a picture, the box of a region being its last numbers. Tags are
words, and follow the caption in one row of tokens: [start] words… [end] padding, tags… [end]
padding, the tags from a fixed place on.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.data.records import BadRecord, Record, Source
from mmjax.data.tokenize import Tokenizer
from mmjax.errors import UserError

LOOKED_AT = 16  # records of a source whose regions are checked before the first step


@dataclass(frozen=True)
class Segments:
    """How many of each there are: `tags`, tokens at the end of a text; `regions` of a picture, each
    of `width` numbers; 0: none."""

    tags: int = 0
    regions: int = 0
    width: int = 0

    @classmethod
    def of(cls, model: ConfigDict) -> "Segments":
        """Those of `config.model`."""
        image, tags = model.image, model.text.get("tags", 0)
        if image.get("kind", "vit") != "regions":
            return cls(tags)
        return cls(tags, image.regions, image.region_width)

    def encode(
        self, tokenizer: Tokenizer, captions: Sequence[str], tags: Sequence[str], length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32 [n, length] and their mask bool [n, length] of captions and tags."""
        text, mask = tokenizer.encode(captions, length - self.tags)
        if self.tags:
            start = int(tokenizer.start_id is not None)  # it stands before the words alone
            more, there = tokenizer.encode(tags, self.tags + start)
            text = np.concatenate([text, more[:, start:]], axis=1)
            mask = np.concatenate([mask, there[:, start:]], axis=1)
        return text, mask

    def read(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        """The record's first regions, float32 [regions, width], zeros after the last; and bool
        [regions], which there are. Raises BadRecord."""
        found = self.parse(record)
        if found.shape[1] != self.width:
            raise BadRecord(
                f"{record.key} has regions of {found.shape[1]} numbers, not {self.width}"
            )
        kept = found[: self.regions].astype(np.float32)
        if not np.isfinite(kept).all():
            raise BadRecord(f"{record.key} has regions that are no finite numbers")
        features = np.zeros((self.regions, self.width), np.float32)
        features[: len(kept)] = kept
        return features, np.arange(self.regions) < len(kept)

    @staticmethod
    def parse(record: Record) -> np.ndarray:
        """The regions as they are stored, [n, F]; n is 1 or more. Raises BadRecord."""
        if record.regions is None:
            raise BadRecord(f"{record.key} is without region features")
        found: Any = record.regions
        if isinstance(found, bytes):
            try:
                found = np.load(io.BytesIO(found), allow_pickle=False)
            except (ValueError, EOFError, OSError) as error:
                raise BadRecord(f"{record.key} cannot be read as NumPy's .npy ({error})") from error
        if found.ndim != 2 or not len(found) or not np.issubdtype(found.dtype, np.floating):
            raise BadRecord(
                f"{record.key} holds {found.dtype} {list(found.shape)}, no float [regions, numbers]"
            )
        return found


NO_SEGMENTS = Segments()


def check_segments(config: ConfigDict, sources: Sequence[Source]) -> None:
    """`check_source` of `config.data.train`, opened as `sources`."""
    for name, source in zip(sorted(config.data.train), sources, strict=True):
        check_source(config.model, config.data.train[name], source, f"config.data.train.{name}")


def check_source(model: ConfigDict, spec: Mapping[str, Any], source: Source, key: str) -> None:
    """Looks at the first records of what `spec` opened, the config's entry `key`.

    UserError: it gives no regions or tags where the model reads some, or regions that it does not
    read, or of another width.
    """
    wanted = Segments.of(model)
    if wanted.tags and not spec.get("tags"):
        raise UserError(
            f"config.model.text.tags={wanted.tags} wants object tags: set {key}.tags to where they "
            "are, e.g. json:tags."
        )
    if bool(wanted.regions) != bool(spec.get("regions")):
        raise UserError(
            f"config.model.image.kind={model.image.kind!r} reads "
            f"{'region features' if wanted.regions else 'pictures'}: set {key}.regions="
            f"{bool(wanted.regions)}."
        )
    if wanted.regions:
        _check_width(source, key, wanted.width)


def _check_width(source: Source, key: str, width: int) -> None:
    problem: Exception | None = None
    for number in range(min(LOOKED_AT, len(source))):
        try:
            found = Segments.parse(source[number]).shape[1]
        except BadRecord as error:
            problem = problem or error
            continue
        if found != width:
            raise UserError(
                f"{key}: its regions have {found} numbers each, and config.model.image."
                f"region_width={width}: set it to {found}."
            )
        return
    raise UserError(f"{key}: {problem}, nor have the records after it; are these the right files?")
