"""Generated tones with captions that say how they go, for smoke runs and tests."""

import numpy as np

from mmjax.data.account import Account, Accounted
from mmjax.data.identity import digest
from mmjax.data.records import Record, Texts, pair
from mmjax.data.sounds import Waveform

WAYS = ("steady", "rising", "falling", "pulsing")
PITCHES = {"low": 250.0, "middle": 700.0, "high": 2000.0}  # Hz, about
RATE, SECONDS = 16_000, 1.0
OCTAVE = 0.7  # by how much of one a tone rises or falls
PULSES = 8  # a second


class GeneratedSounds(Accounted):
    """Record i is made from i alone; its label is the number of its (way, pitch)."""

    captions_alone = True
    classes = tuple(f"{way} {pitch}" for way in WAYS for pitch in PITCHES)

    def __init__(self, count: int, name: str):
        self.name, self.account = name, Account()
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        """A tone with two overtones and some noise: its pitch, loudness and phase are random."""
        rng = np.random.default_rng(index)
        way, pitch = self._kind(index)
        seconds = np.arange(round(RATE * SECONDS)) / RATE
        bent = {"rising": 1.0, "falling": -1.0}.get(way, 0.0)
        octaves = bent * OCTAVE * (seconds / SECONDS - 0.5) + rng.uniform(-0.15, 0.15)
        phase = 2 * np.pi * (np.cumsum(PITCHES[pitch] * 2**octaves) / RATE + rng.random())
        tone = np.sum([np.sin(n * phase) / n for n in (1, 2, 3)], axis=0)
        if way == "pulsing":
            tone = tone * (np.sin(2 * np.pi * PULSES * (seconds + rng.random())) > 0)
        sound = rng.uniform(0.1, 0.5) * tone + rng.normal(0, 0.003, len(seconds))
        texts = Texts(self.captions(index))
        wave = Waveform(sound.astype(np.float32), RATE)
        label = index % len(self.classes)
        return pair(f"{self.name}: record {index}", wave, texts, label, media="audio")

    def identity(self) -> str:
        """See `data/identity.py`."""
        return digest(["sounds", self._count])

    def captions(self, index: int) -> tuple[str, ...]:
        way, pitch = self._kind(index)
        return (f"a {way} tone of {pitch} pitch", f"the sound of a {pitch} tone that is {way}")

    def _kind(self, index: int) -> tuple[str, str]:
        way, pitch = divmod(index % len(self.classes), len(PITCHES))
        return WAYS[way], list(PITCHES)[pitch]
