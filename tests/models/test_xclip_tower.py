"""X-CLIP's video tower and texts that depend on videos: in a run, short videos, what is refused."""

import jax
import numpy as np
import pytest
import tiny

from mmjax import config as config_lib
from mmjax import config_check, models, objectives
from mmjax.errors import UserError
from mmjax.interop import registry, start
from mmjax.models.parts import check_model, part
from mmjax.models.towers.xclip import stretched

T = 4
OF = ("video", "text")


def xclip_model(prompts=True, **changes):
    """The tiny CLIP with X-CLIP's tower."""
    model = models.zoo.config("tiny")
    image = model.image
    frame = {
        key: image[key] for key in ("size", "patch_size", "width", "depth", "heads", "mlp_dim")
    }
    values = {"frames": T, "time_heads": 2, "time_mlp_dim": 32, "unroll": False, **frame, **changes}
    del model["image"]
    model.video = part("xclip", **values)
    model.text.update(unroll=False)
    if prompts:
        model.prompts = part("prompts", depth=1, heads=2)
    return model


@pytest.fixture(scope="module")
def video():
    return np.random.default_rng(0).integers(0, 256, (3, T, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def tower():
    model = models.from_config(xclip_model())
    apply = jax.jit(model.apply, static_argnums=2, compiler_options=tiny.QUICK)
    params = tiny.params(model)
    names = ("video/embed", "video/frames", "video/patches")
    return lambda video, mask=None: apply(
        {"params": params}, {"video": video} | ({} if mask is None else {"video_mask": mask}), names
    )


def test_frames_hear_of_each_other_and_of_their_order(tower, video):
    mask = np.ones((3, T), bool)
    plain, backward = tower(video, mask), tower(video[:, ::-1], mask)
    other = tower(np.concatenate([video[:, :1], 255 - video[:, 1:]], axis=1), mask)
    assert np.abs(other["video/frames"][:, 0] - plain["video/frames"][:, 0]).max() > 1e-3
    assert np.abs(other["video/patches"] - plain["video/patches"]).max() > 1e-3
    assert np.abs(backward["video/embed"] - plain["video/embed"]).max() > 1e-3
    # Before the transformer over time nothing knows it, and patches are a mean over it.
    frames = plain["video/frames"][:, ::-1]
    np.testing.assert_allclose(backward["video/frames"], frames, atol=1e-5)
    np.testing.assert_allclose(backward["video/patches"], plain["video/patches"], atol=1e-5)


def test_a_short_video_fills_its_places_with_its_frames(tower, video):
    mask = np.arange(T) < np.array([[1], [2], [3]])
    places = [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 1, 2]]
    expected = np.stack([clip[row] for clip, row in zip(video, places, strict=True)])
    np.testing.assert_array_equal(stretched(video, mask), expected)
    padding = ~mask[:, :, None, None, None]
    black = tower(np.where(padding, np.uint8(0), video), mask)
    white = tower(np.where(padding, np.uint8(255), video), mask)
    jax.tree.map(np.testing.assert_array_equal, black, white)
    whole = tower(expected, np.ones((3, T), bool))
    jax.tree.map(np.testing.assert_array_equal, black, whole)


@pytest.mark.parametrize(
    ("shape", "said"),
    [((2, 3, 32, 32, 3), "given 3 frames: sample 4"), ((2, 32, 32, 3), "given images: sample 4")],
)
def test_another_number_of_frames_is_refused(shape, said):
    model = models.from_config(xclip_model())
    with pytest.raises(UserError, match=f"reads videos of 4 frames and was {said} of each"):
        jax.eval_shape(
            lambda video: model.init(jax.random.key(0), {"video": video}, ("video/embed",)),
            jax.ShapeDtypeStruct(shape, np.uint8),
        )


def test_it_trains_alike_on_one_device_and_on_eight():
    """Without `prompts` it is a tower as any other."""
    config = tiny.config(lr=3e-3)
    config.model = xclip_model(prompts=False, frames=2, patch_size=16)
    config.model.text.update(vocab_size=600)
    config.data.train = {
        name: config_lib.entry("data.train", path="generated:96", media=name)
        for name in ("video", "image")
    }
    config.data.tokenizer = "captions:600"
    config.objectives.clip.of = OF
    one = tiny.loaded_step(config, 1)
    video = one[1]["video"]
    assert np.linalg.norm(video["blocks"]["message"]["attention"]["query"]["kernel"]) > 1e-7
    assert np.linalg.norm(video["time"]["position_embed"]) > 1e-6
    tiny.assert_same(tiny.loaded_step(config, 8), one)


def test_weights_of_clip_start_it(tmp_path):
    config = config_lib.default()
    config.model = models.zoo.config("tiny")
    theirs = tiny.params(models.from_config(config.model))
    registry.export(tmp_path / "clip", "huggingface", config=config, params=theirs)
    model = xclip_model(prompts=False)
    with model.unlocked():
        model.image = model.video
        del model["video"]
    report = start.plan(registry.open_weights(tmp_path / "clip"), model)
    assert not report.left
    new = ("blocks/message/", "time/", "norm_patches/", "patches_head/")
    assert all(path.startswith(tuple(f"image/{n}" for n in new)) for path in report.missing)


def test_what_reads_texts_alone_says_that_there_are_none():
    graph = models.from_config(xclip_model())
    said = r"text/embed.* it depends on the example that it is compared with"
    objective = objectives.build({"clip": config_lib.entry("objectives", kind="clip", of=OF)})
    with pytest.raises(UserError, match=said):
        config_check.validate_outputs(objective, graph.outputs(), graph.conditioned())
    with pytest.raises(ValueError, match=said):
        graph.plan({"text": 0, "text_mask": 1}, ("text/embed",))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"video.time_heads": 5}, r"video\.time_heads=5 must divide config\.model\.embed_dim=32"),
        ({"video.depth": 0}, r"video\.depth=0 gives frames no features"),
        ({"video.patch_size": 64}, r"patch_size=64 is larger than a frame \(size=32\)"),
        ({"video.head": "none"}, r"video\.head='none' wants width=64 equal to"),
        ({"prompts.heads": 5}, r"prompts\.heads=5 must divide config\.model\.embed_dim=32"),
        ({"prompts.of": ("image", "text")}, r"which the model must have: it has logit, prompts"),
        ({"prompts.of": ("text", "video")}, r"the first part should be of the kind 'xclip'"),
    ],
)
def test_what_does_not_fit_is_a_sentence(changes, said):
    model = xclip_model()
    check_model(model)
    model.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=said):
        check_model(model)
