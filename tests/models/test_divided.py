"""Divided space–time attention against Frozen in Time's formula in PyTorch, and an image tower."""

import jax
import numpy as np
import pytest
import tiny
from pytorch import F, torch

from mmjax import config as config_lib
from mmjax import models
from mmjax.interop import registry, start

T, HEADS = 4, 4


def video_model(name="tiny", **changes):
    """The tiny CLIP (or SigLIP), its image tower on four frames with divided attention."""
    model = models.zoo.config(name)
    frame = {k: v for k, v in model.image.items() if k != "kind"}
    changes = {"frames": T, "over_time": "divided", "unroll": False} | changes
    model.image = config_lib.entry("model", kind="video_vit", **(frame | changes))
    return model


def apply(model, params, video, mask=None, output="image/embed"):
    batch = {"image": video} | ({} if mask is None else {"image_mask": mask})
    run = jax.jit(models.from_config(model).apply, static_argnums=2, compiler_options=tiny.QUICK)
    return np.asarray(run({"params": params}, batch, (output,))[output])


def random_params(model):
    return tiny.params(models.from_config(model))


@pytest.fixture(scope="module")
def video():
    return np.random.default_rng(0).integers(0, 256, (3, T, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["tiny", "tiny-siglip"])  # with a class token, and pooled by map
def test_one_frame_is_the_image_to_the_bit(video, name):
    model = video_model(name)
    params, images = random_params(model), models.zoo.config(name)
    images.image.unroll = False
    assert np.abs(params["image"]["blocks"]["time"]["out"]["kernel"]).max() > 0.1
    expected = apply(images, params, video[:, 0])
    np.testing.assert_array_equal(apply(model, params, video[:, 0]), expected)
    np.testing.assert_array_equal(apply(model, params, video[:, :1]), expected)
    padded = apply(model, params, video, np.arange(T) < np.ones((3, 1)))
    np.testing.assert_allclose(padded, expected, atol=1e-6)
    assert np.abs(apply(model, params, video) - expected).max() > 0.01


def test_frames_that_are_padding_are_not_pooled(video):
    model = video_model("tiny-siglip")
    params, mask = random_params(model), np.arange(T) < np.array([[2], [3], [4]])
    changed = np.where(mask[:, :, None, None, None], video, 255 - video)
    found = apply(model, params, video, mask)
    np.testing.assert_array_equal(apply(model, params, changed, mask), found)
    shorter = apply(model, params, video[:, :3], mask[:, :3])
    np.testing.assert_allclose(shorter[:2], found[:2], atol=1e-6)


def test_untrained_it_does_not_see_the_order_of_frames_and_trained_it_does(video):
    model = video_model()
    init = jax.jit(models.init, static_argnums=0, compiler_options=tiny.QUICK)
    untrained = init(models.from_config(model), jax.random.key(0))
    for params, most in ((untrained, 1e-6), (random_params(model), np.inf)):
        forward, backward = (apply(model, params, v) for v in (video, video[:, ::-1]))
        difference = np.abs(forward - backward).max()
        assert difference <= most
    assert difference > 1e-3


def theirs(p, video, mask):
    """The embedding by the formulas of Frozen in Time's video_transformer.py (SpaceTimeBlock and
    VarAttention), one video at a time, frames that are padding cut off; CLIP's norm comes first."""
    embeds = []
    for frames, valid in zip(video, mask, strict=True):
        frames = frames[valid]
        n = len(frames)
        x = torch.tensor(frames / 255.0 - np.array(MEAN)) / torch.tensor(STD)
        x = x.reshape(n, 4, 8, 4, 8, 3).transpose(2, 3).reshape(n, 16, -1)
        x = x @ p["patch_embed"]["kernel"].reshape(8 * 8 * 3, -1) + p["position_embed"][1:]
        token = norm(p["class_embed"] + p["position_embed"][0], p["norm_pre"])
        x = norm(x, p["norm_pre"]) + p["time_embed"][:n, None]
        x = torch.cat([token[None], x.reshape(n * 16, -1)])
        for i in range(len(p["blocks"]["norm1"]["scale"])):
            b = jax.tree.map(lambda leaf, i=i: leaf[i], p["blocks"])
            time = x + attention(norm(x, b["norm_time"]), b["time"], n, over_time=True)
            x = x + attention(norm(time, b["norm1"]), b["attention"], n, over_time=False)
            hidden = F.gelu(linear(norm(x, b["norm2"]), b["mlp"]["fc1"]))
            x = x + linear(hidden, b["mlp"]["fc2"])
        found = norm(x[0], p["norm_post"]) @ p["head"]["kernel"]
        embeds.append(found / found.norm())
    return torch.stack(embeds)


MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def norm(x, p):
    return F.layer_norm(x, x.shape[-1:], p["scale"], p["bias"], 1e-5)


def linear(x, p):
    return x @ p["kernel"] + p["bias"]


def attention(x, p, frames, over_time):
    """VarAttention: the class token over all tokens, a patch over the class token and its group."""
    q, k, v = (linear(x, p[name]) for name in ("query", "key", "value"))
    rows = [softmax_attention(q[:1], k, v)]
    for i in range(1, len(x)):
        frame, patch = divmod(i - 1, (len(x) - 1) // frames)
        others = torch.arange(1, len(x))
        same = (others - 1) % 16 == patch if over_time else (others - 1) // 16 == frame
        group = [0, *others[same].tolist()]
        rows.append(softmax_attention(q[i : i + 1], k[group], v[group]))
    return linear(torch.cat(rows), p["out"])


def softmax_attention(q, k, v):
    q, k, v = (y.reshape(len(y), HEADS, -1).transpose(0, 1) for y in (q, k, v))
    scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
    return (scores.softmax(-1) @ v).transpose(0, 1).reshape(q.shape[1], -1)


def test_values_and_gradients_are_those_of_frozen_in_time(video):
    model = video_model()
    params = random_params(model)
    mask = np.arange(T) < np.array([[2], [3], [4]])
    weights = np.random.default_rng(3).normal(size=(3, model.embed_dim))
    graph = models.from_config(model)

    def loss(image):
        batch = {"image": video, "image_mask": mask}
        found = graph.apply({"params": params | {"image": image}}, batch, ("image/embed",))
        return (found["image/embed"] * weights).sum(), found["image/embed"]

    (_, found), gradient = jax.jit(
        jax.value_and_grad(loss, has_aux=True), compiler_options=tiny.QUICK
    )(params["image"])
    tensors = jax.tree.map(
        lambda x: torch.tensor(x, dtype=torch.float64, requires_grad=True), params["image"]
    )
    expected = theirs(tensors, video, mask)
    (expected * torch.tensor(weights)).sum().backward()
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=2e-6)
    pairs = jax.tree.map(lambda a, b: (np.asarray(a), b.grad.numpy()), gradient, tensors)
    pairs = jax.tree.leaves(pairs, is_leaf=lambda x: isinstance(x, tuple))
    size = np.sqrt(sum((b**2).sum() for _, b in pairs))
    assert max(np.linalg.norm(a - b) for a, b in pairs) <= 1e-5 * size
    for name in ("time_embed", "class_embed"):
        assert np.linalg.norm(gradient[name]) > 1e-3 * size


def test_an_image_tower_starts_it_and_then_it_starts_one_of_more_frames(tmp_path):
    """Frozen in Time's curriculum: one frame, which has no parameters of time, then four, eight."""
    config = config_lib.default()
    config.model = models.zoo.config("tiny")
    theirs = random_params(config.model)
    registry.export(tmp_path / "clip", "huggingface", config=config, params=theirs)
    images = registry.open_weights(tmp_path / "clip")
    for frames in (1, T):
        model = video_model(frames=frames)
        params, report = start.start_from(images, model, jax.device_put(random_params(model)))
        kernel = params["image"]["blocks"]["attention"]["query"]["kernel"]
        np.testing.assert_array_equal(
            kernel, theirs["image"]["blocks"]["attention"]["query"]["kernel"]
        )
        missing = {path.rpartition("/blocks/")[2].split("/")[0] for path in report.missing}
        assert missing == (set() if frames == 1 else {"image", "norm_time", "time"})
    positions = start.resized(
        "image/time_embed", np.asarray(params["image"]["time_embed"]), (2 * T, 64), model,
        video_model(frames=2 * T),
    )  # fmt: skip
    four = torch.tensor(np.asarray(params["image"]["time_embed"])).T[None]
    eight = F.interpolate(four, 2 * T, mode="linear", align_corners=False)[0].T
    np.testing.assert_allclose(positions, eight.numpy(), atol=1e-6)
    assert start._resizable("image/time_embed", (4, 64), (8, 64), model, model)


def test_first_losses_and_gradients_are_the_same_on_one_device_and_on_eight():
    config = tiny.config()
    config.model = video_model(depth=1)
    config.model.text.update(vocab_size=600, depth=1)
    config.data.train = {
        "video": config_lib.entry("data.train", path="generated:32", media="video")
    }
    config.data.tokenizer = "captions:600"
    one = tiny.loaded_step(config, 1)
    assert np.linalg.norm(one[1]["image"]["blocks"]["time"]["out"]["kernel"]) > 1e-6
    tiny.assert_same(tiny.loaded_step(config, 8), one)
