"""Sounds: some seconds of each as a waveform, of which the model makes a spectrogram."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.data.draw import Draw
from mmjax.data.modalities.base import Column, LoadTokenizer, Modality, register
from mmjax.data.records import BadRecord, Record
from mmjax.data.sounds import Fill, filled, open_sound, resampled, samples
from mmjax.data.videos import MAX_HOURS


@register("audio")
@dataclass(frozen=True)
class Audio(Modality):
    """The field "audio" of a record, or the sound of its "video", as NAME, float32
    [sample_rate · seconds]: the mean of the channels, in -1..1.

    Of a longer sound it is a random part in training and the beginning in evaluation.
    """

    name: str = field(compare=False)
    sample_rate: int
    seconds: float
    fill: Fill = "repeat"
    max_hours: float = MAX_HOURS

    media = ("audio", "video")

    @classmethod
    def of(
        cls, name: str, spec: Any, data: ConfigDict | None, tokenizer: LoadTokenizer | None
    ) -> "Audio":
        max_hours = MAX_HOURS if data is None else data.max_hours
        return cls(name, spec.sample_rate, spec.seconds, spec.fill, max_hours)

    @property
    def columns(self) -> Mapping[str, Column]:
        return {self.name: Column((samples(self.sample_rate, self.seconds),), np.float32)}

    def read(self, record: Record, draw: Draw | None) -> np.ndarray:
        count = samples(self.sample_rate, self.seconds)
        of_film = "audio" not in record.parts and "video" in record.parts
        stored = record.part("video" if of_film else "audio")
        try:
            if draw is None:
                found = resampled(open_sound(stored, self.max_hours), self.sample_rate, count)
            else:  # readers at another rate (a teacher's) hear the same seconds
                sound = draw.once("audio", lambda: open_sound(stored, self.max_hours))
                rng = draw.rng("audio")
                share = draw.once(f"part of {self.seconds} s", lambda: float(rng.random()))
                found = resampled(sound, self.sample_rate, count, share)
        except BadRecord as error:
            raise BadRecord(f"{record.key} {error}") from error
        return filled(found, count, self.fill)
