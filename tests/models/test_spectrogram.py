"""Spectrograms against transformers' feature extractors, torch.stft and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pytorch

from mmjax.models.spectrogram import cut_frames, kaldi_fbank, log_mel


def sounds(seconds, rate):
    """float32 [3, N]: noise, a sweep over noise, and clicks."""
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * rate)) / rate
    noise = 0.3 * rng.standard_normal((3, len(t)))
    noise[1] = 0.03 * noise[1] + 0.7 * np.sin(2 * np.pi * (200 + 3000 * t) * t)
    noise[2] *= (t * 7 % 1 < 0.1) + 0.01
    return np.clip(noise, -1, 1).astype(np.float32)


@pytest.mark.parametrize("filters", ["slaney", "htk"])
def test_log_mel_is_that_of_clap(filters):
    """1,001 frames of 10 seconds; "fusion" is how the extractor is told to use HTK's filters."""
    audio = sounds(10, 48_000)
    theirs = pytorch.transformers.ClapFeatureExtractor(
        truncation="fusion" if filters == "htk" else "rand_trunc"
    )
    expected = theirs(list(audio), sampling_rate=48_000)["input_features"]
    found = np.asarray(jax.jit(lambda x: log_mel(x, 48_000, filters=filters))(audio))
    assert found.shape == (3, 1001, 64)
    assert found.dtype == np.float32
    expected = np.stack(expected)[:, 0]
    off = np.abs(found - expected)  # most where a filter hears 1e-7 of what is in the frame
    assert np.quantile(off, 0.99) < 1e-4
    assert off.mean() < 2e-5
    assert off.max() < 1e-2


def test_silence_and_a_pure_tone_keep_the_floor():
    """What a tone leaves in other filters is rounding in float32: far below the tone."""
    audio = np.zeros((2, 48_000), np.float32)
    audio[1] = np.sin(2 * np.pi * 3000 * np.arange(48_000) / 48_000)
    theirs = pytorch.transformers.ClapFeatureExtractor(truncation="rand_trunc", max_length_s=1)
    expected = np.stack(theirs(list(audio), sampling_rate=48_000)["input_features"])[:, 0]
    found = np.asarray(log_mel(jnp.asarray(audio), 48_000))
    assert (found[0] == -100).all()
    heard = expected[1] > expected[1].max() - 80
    assert heard.any()
    np.testing.assert_allclose(found[1][heard], expected[1][heard], atol=1e-2)
    assert found[1][~heard].max() < expected[1].max() - 75


def test_filter_banks_are_kaldis_as_ast_reads_them():
    audio = sounds(2, 16_000)
    theirs = pytorch.transformers.ASTFeatureExtractor(do_normalize=False, max_length=198)
    expected = np.stack(theirs(list(audio), sampling_rate=16_000)["input_values"])
    found = np.asarray(jax.jit(lambda x: kaldi_fbank(x, 16_000))(audio))
    assert found.shape == (3, 198, 128)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_values_and_gradients_against_torch_in_float64():
    torch = pytorch.torch
    rng = np.random.default_rng(1)
    audio, weights = rng.uniform(-1, 1, (2, 1000)), rng.standard_normal((2, 13, 16))
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(129, 16, 0, 7000, 16_000, norm="slaney", mel_scale="slaney")

    def ours(x):
        found = log_mel(x, 16_000, bins=16, window=256, hop=80, high=7000)
        return (found * weights).sum(), found

    (_, found), gradient = jax.value_and_grad(ours, has_aux=True)(jnp.asarray(audio, jnp.float32))
    x = torch.tensor(audio, requires_grad=True)
    stft = torch.stft(x, 256, 80, window=torch.hann_window(256, dtype=x.dtype), center=True,
                      pad_mode="reflect", return_complex=True)  # fmt: skip
    mel = stft.abs().pow(2).transpose(1, 2) @ torch.tensor(filters)
    expected = 10 * torch.log10(mel.clamp_min(1e-10))
    (expected * torch.tensor(weights)).sum().backward()
    np.testing.assert_allclose(found, expected.detach(), atol=1e-4)
    theirs = x.grad.numpy()
    np.testing.assert_allclose(gradient, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize(("length", "window", "hop"), [(100, 20, 7), (99, 10, 10), (40, 8, 16)])
def test_frames_are_cut_where_they_should_be(length, window, hop):
    audio = np.arange(2 * length).reshape(2, length)
    expected = np.lib.stride_tricks.sliding_window_view(audio, window, axis=1)[:, ::hop]
    np.testing.assert_array_equal(cut_frames(jnp.asarray(audio), window, hop), expected)


def test_each_device_transforms_its_own_sounds():
    """No collective: the batch stays where it lies."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    shape = jax.ShapeDtypeStruct((8, 4800), jnp.float32, sharding=rows)
    program = jax.jit(lambda x: log_mel(x, 48_000)).lower(shape).compile().as_text()
    assert "all-gather" not in program
    assert "all-reduce" not in program
