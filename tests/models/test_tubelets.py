"""Patches that span frames, against PyTorch's Conv3d, and what an image tower starts."""

import jax
import numpy as np
import pytest
import tiny
from pytorch import F, torch
from test_divided import T, apply, random_params, video_model

from mmjax import config as config_lib
from mmjax import models
from mmjax.interop import registry, start
from mmjax.models.patches import PatchEmbed
from mmjax.models.towers.vision import MEAN, STD


def model_of(name="tiny-siglip", **changes):
    return video_model(name, **({"over_time": "joint", "tubelet": 2} | changes))


@pytest.fixture(scope="module")
def video():
    return np.random.default_rng(0).integers(0, 256, (3, T, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("tubelet", [2, 4])
def test_the_embedding_is_a_convolution_over_frames(video, tubelet):
    module = PatchEmbed(8, 16, True, MEAN, STD, np.dtype("float32"), tubelet)
    images = video.reshape(-1, 32, 32, 3)
    params = module.init(jax.random.key(0), images)["params"]
    params["bias"] = np.arange(16, dtype=np.float32)
    found = module.apply({"params": params}, images)
    pixels = torch.tensor(((video / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 4, 1, 2, 3))
    kernel = torch.tensor(np.asarray(params["kernel"], np.float64)).permute(4, 3, 0, 1, 2)
    bias = torch.arange(16, dtype=torch.float64)
    expected = F.conv3d(pixels, kernel, bias, stride=(tubelet, 8, 8)).permute(0, 2, 3, 4, 1)
    np.testing.assert_allclose(found, expected.reshape(found.shape).numpy(), atol=2e-5)


@pytest.mark.parametrize("over_time", ["joint", "divided"])
def test_frames_that_are_padding_change_nothing(video, over_time):
    model = model_of(over_time=over_time)
    params, mask = random_params(model), np.arange(T) < np.array([[1], [3], [4]])
    changed = np.where(mask[:, :, None, None, None], video, 255 - video)
    found = apply(model, params, video, mask)
    np.testing.assert_array_equal(apply(model, params, changed, mask), found)
    alone = apply(model, params, video[:, 0])  # an image fills a tubelet
    np.testing.assert_allclose(alone[0], found[0], atol=1e-6)
    assert np.abs(alone[1:] - found[1:]).max() > 1e-3


def test_it_sees_the_order_of_tubelets_and_of_frames_in_them(video):
    model = model_of()
    params = random_params(model)
    found = apply(model, params, video)
    for order in ([2, 3, 0, 1], [1, 0, 3, 2]):
        assert np.abs(apply(model, params, video[:, order]) - found).max() > 1e-3


# With a class token, a video of several tubelets has as many patches for one token.
@pytest.mark.parametrize(("name", "tubelet"), [("tiny-siglip", 2), ("tiny", T)])
def test_an_image_tower_starts_it_and_static_clips_give_what_images_give(
    tmp_path, video, name, tubelet
):
    config = config_lib.default()
    config.model = models.zoo.config(name)
    config.model.image.unroll = False
    theirs = tiny.params(models.from_config(config.model))
    registry.export(tmp_path / "out", "huggingface", config=config, params=theirs)
    model = model_of(name, tubelet=tubelet)
    fresh = random_params(model)
    if "time_embed" in fresh["image"]:
        fresh["image"]["time_embed"] *= 0  # as it begins
    weights = registry.open_weights(tmp_path / "out")
    params, report = start.start_from(weights, model, jax.device_put(fresh))
    assert set(report.missing) <= {"image/time_embed"}
    kernel = np.asarray(params["image"]["patch_embed"]["kernel"])
    np.testing.assert_array_equal(kernel[tubelet // 2], theirs["image"]["patch_embed"]["kernel"])
    assert np.count_nonzero(kernel.any(axis=(1, 2, 3, 4))) == 1
    static = np.repeat(video[:, :1], T, axis=1)
    expected = apply(config.model, theirs, video[:, 0])
    np.testing.assert_allclose(apply(model, params, static), expected, atol=2e-6)
    assert np.abs(apply(model, params, video) - expected).max() > 1e-3
