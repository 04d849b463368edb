"""Video towers: against an image tower on single frames, and what order and padding do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mmjax import config as config_lib
from mmjax import models
from mmjax.errors import UserError
from mmjax.interop import registry, start
from mmjax.models.parts import check_model

T = 4


def video_model(**changes):
    """The tiny CLIP, its image tower on four frames."""
    model = models.zoo.config("tiny")
    frame = {k: v for k, v in model.image.items() if k != "kind"}
    model.image = config_lib.entry("model", kind="video_vit", frames=T, **(frame | changes))
    return model


def both(**changes):
    """(video model, random parameters, the image model that has the same)."""
    model = models.from_config(video_model(**changes))
    return model, tiny.params(model), models.from_config(models.zoo.config("tiny"))


def embeds(model, params, video, mask=None, name="image/embed"):
    batch = {"image": jnp.asarray(video)}
    if mask is not None:
        batch["image_mask"] = jnp.asarray(mask)
    return np.asarray(
        jax.jit(model.apply, static_argnums=2)({"params": params}, batch, (name,))[name]
    )


@pytest.fixture(scope="module")
def video():
    return np.random.default_rng(0).integers(0, 256, (3, T, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("normalise", ["before", "after", "both"])
def test_the_mean_is_that_of_an_image_tower_on_each_frame(video, normalise):
    model, params, images = both(normalise=normalise)
    one = {"params": params}
    each = images.apply(one, {"image": video.reshape(-1, 32, 32, 3)}, ("image/features",))
    each = np.asarray(each["image/features"], np.float64).reshape(3, T, -1)
    if normalise != "after":
        each /= np.linalg.norm(each, axis=-1, keepdims=True)
    expected = each.mean(axis=1)
    if normalise != "before":
        expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(embeds(model, params, video), expected, atol=2e-6)


def test_a_video_of_one_frame_is_the_image(video):
    model, params, images = both()
    one = {"params": params}
    expected = images.apply(one, {"image": video[:, 0]}, ("image/embed",))["image/embed"]
    mask = np.arange(T) < np.ones((3, 1))
    np.testing.assert_allclose(embeds(model, params, video, mask), expected, atol=1e-6)
    np.testing.assert_allclose(embeds(model, params, video[:, 0]), expected, atol=1e-6)


@pytest.mark.parametrize("over_time", ["mean", "transformer", "divided", "joint"])
def test_frames_that_are_padding_change_nothing(video, over_time):
    model, params, _ = both(over_time=over_time)
    mask = np.arange(T) < np.array([[2], [3], [4]])
    changed = np.where(mask[:, :, None, None, None], video, 255 - video)
    np.testing.assert_array_equal(
        embeds(model, params, video, mask), embeds(model, params, changed, mask)
    )


def test_a_mean_does_not_know_the_order_of_frames_and_a_transformer_does(video):
    for over_time, most in (("mean", 1e-6), ("transformer", np.inf)):
        model, params, _ = both(over_time=over_time)
        forward, backward = (embeds(model, params, v) for v in (video, video[:, ::-1]))
        difference = np.abs(forward - backward).max()
        assert difference <= most
    assert difference > 1e-3


def test_weights_of_an_image_tower_start_it(tmp_path):
    _, params, images = both(over_time="transformer")
    config = config_lib.default()
    config.model = models.zoo.config("tiny")
    theirs = tiny.params(images)
    registry.export(tmp_path / "clip", "huggingface", config=config, params=theirs)
    weights = registry.open_weights(tmp_path / "clip")
    params = jax.device_put(params)
    taken, report = start.start_from(weights, video_model(over_time="transformer"), params)
    np.testing.assert_array_equal(
        taken["image"]["patch_embed"]["kernel"], theirs["image"]["patch_embed"]["kernel"]
    )
    assert report.missing
    assert all(path.startswith("image/time/") for path in report.missing)


def test_it_trains_on_videos_and_images_and_resumes_to_the_bit(tmp_path):
    config = run()
    straight, found = tiny.trained(config, tmp_path / "a")
    resumed, _ = tiny.trained(config, tmp_path / "b", stop_after=15)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, straight.params)
    assert found["shapes/image_to_text/R@5"] > 0.45  # by chance 0.21


def test_first_losses_and_gradients_are_the_same_on_one_device_and_on_eight():
    one = tiny.loaded_step(run(), 1)
    assert np.linalg.norm(one[1]["image"]["time"]["position_embed"]) > 1e-6
    tiny.assert_same(tiny.loaded_step(run(), 8), one)


def test_it_is_planned():
    assert tiny.planned(run()).fits


def run():
    """Shapes that move, and still ones as videos of one frame."""
    config = tiny.config(lr=3e-3)
    config.model = video_model(over_time="transformer", time_depth=1, time_heads=2)
    config.model.text.vocab_size, config.total_steps = 600, 40
    config.data.train = {}
    for name in ("video", "image"):
        spec = config_lib.entry("data.train", path="generated:96", media=name)
        config.data.train[name] = spec
    config.data.tokenizer = "captions:600"
    config.evals.shapes = config_lib.entry(
        "evals", kind="retrieval", path="generated:24", media="video", candidates="captions"
    )
    return config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"over_time": "transformer", "time_heads": 5}, r"time_heads=5 must divide config\.model"),
        ({"depth": 0}, r"depth=0 gives frames no features"),
        ({"over_time": "divided", "patch_dropout": 0.5}, r"patch_dropout drops other patches"),
        ({"tubelet": 2}, r"tubelet=2 joins frames, and over_time='mean' embeds each"),
        ({"over_time": "joint", "tubelet": 3}, r"tubelet=3 must divide frames=4"),
        ({"over_time": "divided", "pool": "queries"}, r"pool='queries' cannot leave out frames"),
        ({"pixel_head": True}, r"pixel_head is of images"),
    ],
)
def test_what_does_not_fit_is_a_sentence(changes, said):
    with pytest.raises(UserError, match=said):
        check_model(video_model(**changes))
