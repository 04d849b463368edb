"""HTS-AT by its parts, against PyTorch and brute force; the whole: tests/interop/test_clap.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pytorch import torch

from mmjax import config as config_lib
from mmjax import models
from mmjax.core import optim
from mmjax.errors import UserError
from mmjax.interop import formats
from mmjax.models.parts import check_model
from mmjax.models.towers import htsat
from mmjax.parallel import rules
from mmjax.parallel.mesh import make_mesh


def clap(**audio):
    model = models.zoo.config("tiny-clap")
    model.audio.update(audio)
    return model


def drawn(shapes):
    """Parameters of these shapes, without compiling how a new model begins."""
    rng = np.random.default_rng(1)

    def draw(path, x):
        around = 1.0 if path[-1].key in ("scale", "var") else 0.0
        return (around + 0.1 * rng.standard_normal(x.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def params():
    return drawn(formats.shapes(clap()))


def embeds(model, params, audio):
    apply = jax.jit(models.from_config(model).apply, static_argnums=2)
    return apply({"params": params}, {"audio": audio}, ("audio/embed",))["audio/embed"]


@pytest.mark.parametrize(("count", "target"), [(5, 8), (1001, 1024), (7, 7), (1, 4)])
def test_time_is_stretched_as_pytorch_does(count, target):
    x = np.random.default_rng(0).standard_normal((1, 1, count, 3))
    expected = torch.nn.functional.interpolate(
        torch.tensor(x), (target, 3), mode="bicubic", align_corners=True
    )
    found = htsat.bicubic(count, target).astype(np.float64) @ x[0, 0]
    np.testing.assert_allclose(found, expected[0, 0], atol=1e-6)


def test_a_spectrogram_is_folded_with_pieces_of_time_below_one_another():
    mel = np.arange(16 * 2, dtype=np.float32).reshape(1, 16, 2)  # of the size 8 / 2 · 4 = 16
    image = np.asarray(htsat.fold(jnp.asarray(mel[:, :16]), 4))
    for piece in range(2):
        for low in range(2):
            expected = htsat.bicubic(16, 8) @ mel[0, :, low]
            np.testing.assert_allclose(
                image[0, 2 * piece + low], expected[4 * piece :][:4], rtol=1e-6
            )


@pytest.mark.parametrize("shift", [0, 2])
def test_tokens_attend_inside_their_window_alone(shift):
    """By the gradient of an output to all inputs; windows that go over the edge are cut there."""
    block = htsat.SwinBlock(2, 8, 4, shift, "gelu", 1e-5, 1, jnp.float32)
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 4))
    params = drawn(jax.eval_shape(block.init, jax.random.key(1), x))
    rows, columns = np.array([0, 3, 7, 1]), np.array([0, 5, 2, 7])
    chosen = lambda x: (block.apply(params, x)[0, rows, columns] ** 3).sum(axis=-1)  # noqa: E731
    reach = np.abs(np.asarray(jax.jit(jax.jacrev(chosen))(x))).sum(axis=(1, 4)) > 0  # [4, 8, 8]

    def window(at):
        return (at + 4 - shift) // 4

    places = window(np.arange(8))
    same_rows = places == window(rows)[:, None]
    same_columns = places == window(columns)[:, None]
    np.testing.assert_array_equal(reach, same_rows[:, :, None] & same_columns[:, None, :])


def test_windows_come_together_as_they_were_cut():
    x = np.arange(2 * 8 * 8 * 3).reshape(2, 8, 8, 3)
    cut = htsat.cut_windows(x, 4)
    np.testing.assert_array_equal(cut[1, 1].reshape(4, 4, 3), x[1, :4, 4:])
    np.testing.assert_array_equal(htsat.join_windows(cut, 8), x)


def test_remat_and_a_mesh_change_nothing(params):
    audio = np.random.default_rng(0).standard_normal((8, 8000)).astype(np.float32) * 0.1
    expected = embeds(clap(), params, audio)
    assert np.abs(expected[0] - expected[1]).max() > 1e-4
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    placed = jax.device_put(params, rules.param_shardings(params, mesh))
    with jax.set_mesh(mesh):
        found = embeds(clap(remat="dots"), placed, audio)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_statistics_of_the_spectrogram_begin_as_said_and_are_never_trained(params):
    model = models.from_config(clap(mel_mean=-20.0, mel_std=5.0))
    norm = jax.jit(lambda key: models.init(model, key)["audio"]["norm_mel"])(jax.random.key(0))
    assert np.unique(norm["mean"]) == [-20]
    assert np.unique(norm["var"]) == [25]
    factors = optim.lr_multipliers(config_lib.default().optim, params)["audio"]["norm_mel"]
    assert factors == {"scale": 1.0, "bias": 1.0, "mean": 0.0, "var": 0.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": (2,)}, r"stages=\(2,\) and stage_heads=\(2, 4\) say a number for each stage"),
        ({"stage_heads": (2, 5)}, "5 does not divide the width 32 of stage 2"),
        ({"window_tokens": 3}, "size=64 is no multiple of 24 = patch_size x window_tokens x 2"),
        ({"bins": 24}, "size=64 is no multiple of bins=24"),
        ({"high": 5000.0}, "low=50.0 and high=5000.0 must lie in that order below half of sample"),
        ({"seconds": 4.0}, "32000 samples and 401 frames; .* at most size² / bins = 256 frames"),
        ({"seconds": 0.01}, "80 samples and 2 frames; it must have more than window / 2 = 128"),
        ({"head": "none"}, "head='none' wants width=32 equal to config.model.embed_dim=24"),
    ],
)
def test_keys_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        check_model(clap(**changes))
