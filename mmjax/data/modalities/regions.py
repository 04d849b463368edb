"""Region features of an object detector instead of an image: float [n, F], the box of a region
being its last numbers, as Oscar (Li et al., 2020) and VinVL (Zhang et al., 2021) publish them."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.data.draw import Draw
from mmjax.data.modalities.base import Column, LoadTokenizer, Modality, register
from mmjax.data.records import BadRecord, Record, Source
from mmjax.errors import UserError

LOOKED_AT = 16  # records of a source whose regions are checked before the first step


@register("regions")
@dataclass(frozen=True)
class Regions(Modality):
    """The first regions of a record as NAME, float32 [regions, width], zeros after the last; and
    NAME_mask, bool [regions]: which there are."""

    name: str
    regions: int
    width: int

    @classmethod
    def of(
        cls, name: str, spec: Any, data: ConfigDict | None, tokenizer: LoadTokenizer | None
    ) -> "Regions":
        return cls(name, spec.regions, spec.region_width)

    @property
    def columns(self) -> Mapping[str, Column]:
        return {
            self.name: Column((self.regions, self.width), np.float32),
            f"{self.name}_mask": Column((self.regions,), np.bool_),
        }

    def read(self, record: Record, draw: Draw | None) -> tuple[np.ndarray, np.ndarray]:
        found = parse(record)
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

    def check(self, source: Source, spec: Mapping[str, Any], key: str) -> None:
        if spec.get("media") != "regions":
            raise UserError(
                f"config.model.{self.name}.kind='regions' reads region features: set {key}.media="
                "'regions'."
            )
        problem: Exception | None = None
        for number in range(min(LOOKED_AT, len(source))):
            try:
                found = parse(source[number]).shape[1]
            except BadRecord as error:
                problem = problem or error
                continue
            if found != self.width:
                raise UserError(
                    f"{key}: its regions have {found} numbers each, and config.model.{self.name}."
                    f"region_width={self.width}: set it to {found}."
                )
            return
        raise UserError(
            f"{key}: {problem}, nor have the records after it; are these the right files?"
        )


def parse(record: Record) -> np.ndarray:
    """The regions as they are stored, [n, F]; n is 1 or more. Raises BadRecord."""
    found = record.part("regions")
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
