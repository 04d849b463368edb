"""Spectrograms of waveforms, inside the model: CLAP's log-mel in dB and Kaldi's filter banks.

A part that reads sounds has the fields `sample_rate` (int, Hz), `seconds` (float) and `fill`
("repeat" or "zeros": how a shorter sound becomes that long), and `modality = "audio"`. Its column
is then float32 [B, round(sample_rate · seconds)], in -1..1, and has no mask.

Window, Fourier transform and whatever else is linear in a frame are one matrix, made in float64.
XLA gathers the whole batch on every device for its own FFT; a matrix product stays where the batch
lies. Frequencies that no filter reads are not computed.
"""

import functools
import warnings
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Filters = Literal["slaney", "htk"]
DB_FLOOR = 1e-10  # -100 dB, transformers' and librosa's
KALDI_FLOOR = 1.192092955078125e-07  # float32's epsilon


def log_mel(
    audio: jax.Array,
    sample_rate: int,
    *,
    bins: int = 64,
    window: int = 1024,
    hop: int = 480,
    low: float = 0.0,
    high: float = 14_000.0,
    filters: Filters = "slaney",
) -> jax.Array:
    """Computes log-mel spectrograms in dB, of power, with a reference of 1.

    The defaults are those of CLAP (Wu et al., 2023; transformers' `ClapFeatureExtractor`), as of
    librosa: frames around every `hop`-th sample of the sound, which is mirrored at both ends,
    under a periodic Hann window.

    Args:
      audio: [B, N], in -1..1, of more than `window` // 2 samples.
      sample_rate: of `audio`, in Hz.
      bins: mel filters.
      window: samples of a frame, and of its Fourier transform.
      hop: samples from one frame to the next.
      low, high: Hz where the first filter begins and the last one ends.
      filters: librosa's, of equal area (slaney), or torchaudio's, of equal height (htk).

    Returns:
      float32 [B, 1 + N // hop, bins], at least -100.
    """
    half = window // 2
    frames = cut_frames(jnp.pad(audio, ((0, 0), (half, half)), mode="reflect"), window, hop)
    to_bins = _filters(sample_rate, window, bins, low, high, filters)
    mel = _filtered(frames, _transform(window, window, kaldi=False), to_bins)
    return 10 * jnp.log10(jnp.maximum(mel, DB_FLOOR))


def kaldi_fbank(
    audio: jax.Array,
    sample_rate: int,
    *,
    bins: int = 128,
    low: float = 20.0,
    high: float | None = None,
) -> jax.Array:
    """Computes Kaldi's log filter banks, as the Audio Spectrogram Transformer (Gong et al., 2021)
    and transformers' `ASTFeatureExtractor` have them: frames of 25 ms, 10 ms apart, without their
    mean, pre-emphasised by 0.97, under a Hann window.

    Args:
      audio: [B, N], in -1..1, of 25 ms or more.
      sample_rate: of `audio`, in Hz.
      bins: mel filters.
      low: Hz where the first filter begins.
      high: Hz where the last one ends; None: half the sample rate.

    Returns:
      float32 [B, 1 + (N - window) // hop, bins], natural logarithms of power.
    """
    window, hop = sample_rate // 40, sample_rate // 100
    length = 1 << (window - 1).bit_length()  # of the Fourier transform
    to_bins = _filters(sample_rate, length, bins, low, high or sample_rate / 2, "kaldi")
    mel = _filtered(cut_frames(audio, window, hop), _transform(window, length, kaldi=True), to_bins)
    return jnp.log(jnp.maximum(mel, KALDI_FLOOR))


def cut_frames(audio: jax.Array, window: int, hop: int) -> jax.Array:
    """[B, N] -> [B, 1 + (N - window) // hop, window], without a gather: a frame is a few
    neighbouring pieces of `hop` samples."""
    count = 1 + (audio.shape[1] - window) // hop
    each = -(-window // hop)  # pieces that a frame touches
    needed = (count + each - 1) * hop
    audio = jnp.pad(audio, ((0, 0), (0, max(0, needed - audio.shape[1]))))[:, :needed]
    pieces = audio.reshape(audio.shape[0], -1, hop)
    frames = jnp.concatenate([pieces[:, n : n + count] for n in range(each)], axis=2)
    return frames[:, :, :window]


def _filtered(frames: jax.Array, transform: np.ndarray, to_bins: np.ndarray) -> jax.Array:
    """[B, T, window] -> [B, T, bins]: the power of the frequencies that the filters read."""
    read = np.flatnonzero(to_bins.any(axis=1))
    both = np.concatenate([transform.real[:, read], transform.imag[:, read]], axis=1)
    parts = _product(frames.astype(jnp.float32), both)
    power = parts[..., : len(read)] ** 2 + parts[..., len(read) :] ** 2
    return _product(power, to_bins[read])


def _product(x: jax.Array, matrix: np.ndarray) -> jax.Array:
    """In float32 on every device: the spectrum of a sound spans many orders of magnitude."""
    return jnp.matmul(x, jnp.asarray(matrix, jnp.float32), precision=jax.lax.Precision.HIGHEST)


@functools.cache
def _transform(window: int, length: int, *, kaldi: bool) -> np.ndarray:
    """complex128 [window, length // 2 + 1]: a frame times it is its spectrum."""
    n = np.arange(window)
    turns = np.outer(n, np.arange(length // 2 + 1)) % length / length
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / (window - 1 if kaldi else window))
    spectrum = hann[:, None] * np.exp(-2j * np.pi * turns)
    if not kaldi:
        return spectrum
    emphasis = np.eye(window) - 0.97 * np.eye(window, k=1)  # a row of samples times it
    emphasis[0, 0] = 1 - 0.97
    centred = np.eye(window) - 1 / window
    found: np.ndarray = centred @ emphasis @ spectrum
    return found


@functools.cache
def _filters(
    sample_rate: int, length: int, bins: int, low: float, high: float, filters: str
) -> np.ndarray:
    """float64 [length // 2 + 1, bins]: what each frequency gives to each filter."""
    from transformers.audio_utils import mel_filter_bank  # a second to import

    with warnings.catch_warnings():  # of low filters between two frequencies, which AST has
        warnings.simplefilter("ignore")
        found: np.ndarray = mel_filter_bank(
            length // 2 + 1, bins, low, high, sample_rate,
            norm="slaney" if filters == "slaney" else None, mel_scale=filters,
            triangularize_in_mel_space=filters == "kaldi",
        )  # fmt: skip
    return found
