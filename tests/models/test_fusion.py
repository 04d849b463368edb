"""Fusion: layers against PyTorch's, what each token may see, and what early and late mean."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from pytorch import torch

from mmjax import config as config_lib
from mmjax import models, objectives
from mmjax.errors import UserError
from mmjax.models.attention import may_see
from mmjax.models.form import CLIP
from mmjax.models.fusion import Fusion
from mmjax.params import map_roles

WIDTH, HEADS, DEPTH, B, L, N = 16, 2, 2, 3, 5, 4
LENGTHS = np.array([5, 3, 4])
SHARED = 2


def test_one_rule_says_what_is_seen():
    ar = np.array([[0, 0, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1]])
    valid = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 1, 1]], bool)
    mask = np.asarray(may_see(jnp.asarray(valid), jnp.asarray(ar)))
    for b in range(2):
        c = np.cumsum(ar[b])
        for i in range(6):
            for j in range(6):
                assert mask[b, 0, i, j] == (c[j] <= c[i] and valid[b, j])
    everyone = np.asarray(may_see(jnp.asarray(valid)))
    assert (np.broadcast_to(everyone, (2, 1, 6, 6)) == valid[:, None, None, :]).all()


@functools.cache
def made(style, norm):
    """The fusion, random parameters, and its inputs."""
    fusion = Fusion(
        style=style, depth=DEPTH, n_bottlenecks=SHARED, width=WIDTH, heads=HEADS, mlp_dim=24,
        activation="gelu", norm=norm, norm_eps=1e-5, attention="xla", remat="none", unroll=False,
        causal=False, pool="cls", tags=0, class_token=True, dtype=jnp.float32,
        form=CLIP,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    text, image = rng.normal(size=(B, L, WIDTH)), rng.normal(size=(B, N, WIDTH))
    text, image, mask = text.astype("f4"), image.astype("f4"), np.arange(L) < LENGTHS[:, None]
    shapes = jax.eval_shape(fusion.init, jax.random.key(0), text, mask, image)["params"]

    def leaf(role, x):
        noise = rng.normal(size=x.shape) / (1 if role.path.endswith("embed") else 4)
        return (noise + role.path.endswith("scale")).astype("f4")

    return fusion, map_roles(leaf, {"fusion": shapes})["fusion"], (text, mask, image)


def torch_layer(params, norm, index, cross):
    """Layer `index` as PyTorch's own, with the weights of ours."""
    kind = torch.nn.TransformerDecoderLayer if cross else torch.nn.TransformerEncoderLayer
    layer = kind(WIDTH, HEADS, 24, 0.0, "gelu", batch_first=True, norm_first=norm == "pre")

    def get(*path):
        node = params
        for name in path:
            node = node[name]
        return torch.tensor(np.asarray(node[index]))

    def attention(name):
        ours = {part: get(name, part, "kernel").T for part in ("query", "key", "value", "out")}
        bias = {part: get(name, part, "bias") for part in ours}
        parts = ("query", "key", "value")
        return {
            "in_proj_weight": torch.cat([ours[p] for p in parts]),
            "in_proj_bias": torch.cat([bias[p] for p in parts]),
            "out_proj.weight": ours["out"], "out_proj.bias": bias["out"],
        }  # fmt: skip

    state = {f"self_attn.{k}": v for k, v in attention("attention").items()}
    norms = ["norm1", "norm2"]
    if cross:
        state |= {f"multihead_attn.{k}": v for k, v in attention("cross").items()}
        norms = ["norm1", "norm_cross", "norm2"]
    for number, name in enumerate(norms, start=1):
        state[f"norm{number}.weight"] = get(name, "scale")
        state[f"norm{number}.bias"] = get(name, "bias")
    for theirs, name in (("linear1", "fc1"), ("linear2", "fc2")):
        state[f"{theirs}.weight"] = get("mlp", name, "kernel").T
        state[f"{theirs}.bias"] = get("mlp", name, "bias")
    layer.load_state_dict(state)
    return layer


def expected(style, norm, causal):
    """The fused text tokens, and the gradients of their weighted sum, by PyTorch."""
    _, params, (text, mask, image) = made(style, norm)
    text, image = (torch.tensor(x, requires_grad=True) for x in (text, image))
    padding = torch.tensor(~mask)
    blocks = params["blocks"]
    forbidden = torch.triu(torch.ones(L, L, dtype=bool), 1) if causal else None
    if style == "cross":
        x = text
        for i in range(DEPTH):
            layer = torch_layer(blocks, norm, i, cross=True)
            x = layer(x, image, tgt_mask=forbidden, tgt_key_padding_mask=padding)
    elif style == "concat":
        types = torch.tensor(params["type_embed"])
        x = torch.cat([image + types[1], text + types[0]], dim=1)
        padding = torch.cat([torch.zeros(B, N, dtype=bool), padding], dim=1)
        if causal:
            whole = torch.zeros(N + L, N + L, dtype=bool)
            whole[N:, N:] = forbidden
            whole[:N, N:] = True
            forbidden = whole
        for i in range(DEPTH):
            x = torch_layer(blocks, norm, i, False)(x, forbidden, src_key_padding_mask=padding)
        x = x[:, N:]
    else:
        shared = torch.tensor(params["bottleneck_embed"]).expand(B, -1, -1)
        x, other = text, image
        none = torch.zeros(B, SHARED, dtype=bool)
        for i in range(DEPTH):
            results = []
            for name, stream, pad in (
                ("text", x, padding), ("image", other, torch.zeros(B, N, dtype=bool)),
            ):  # fmt: skip
                layer = torch_layer(blocks[name], norm, i, False)
                both = torch.cat([shared, stream], dim=1)
                results.append(layer(both, src_key_padding_mask=torch.cat([none, pad], dim=1)))
            x, other = (r[:, SHARED:] for r in results)
            shared = (results[0][:, :SHARED] + results[1][:, :SHARED]) / 2
    if norm == "pre":
        last = params["norm_post"]
        x = torch.nn.functional.layer_norm(
            x, (WIDTH,), torch.tensor(last["scale"]), torch.tensor(last["bias"])
        )
    (x * weights()).sum().backward()
    return x.detach().numpy(), text.grad.numpy(), image.grad.numpy()


def weights():
    """Of the sum that is differentiated: what padding says does not count."""
    noise = torch.tensor(np.random.default_rng(1).normal(size=(B, L, WIDTH)).astype("f4"))
    return noise * torch.tensor(np.arange(L) < LENGTHS[:, None])[:, :, None]


@pytest.mark.parametrize(
    ("style", "norm", "causal"),
    [("concat", "pre", False), ("concat", "post", True), ("cross", "post", False),
     ("cross", "pre", True), ("bottleneck", "pre", False)],
)  # fmt: skip
def test_layers_are_those_of_pytorch(style, norm, causal):
    fusion, params, (text, mask, image) = made(style, norm)
    ar = np.ones((B, L), np.int32) if causal else None

    @jax.jit
    def run(text, image):
        x = fusion.apply({"params": params}, text, mask, image, text_ar=ar)[0]
        return (x * weights().numpy()).sum(), x

    (_, x), gradients = jax.value_and_grad(run, argnums=(0, 1), has_aux=True)(text, image)
    truth, *exact = expected(style, norm, causal)
    np.testing.assert_allclose(x[mask], truth[mask], atol=2e-5)
    for ours, true in zip(gradients, exact, strict=True):
        np.testing.assert_allclose(ours, true, atol=2e-5 * np.abs(true).max())


def fused(style, **towers):
    config = tiny.config().model
    config.text.mlm_head = True
    if style != "none":
        config.fusion = config_lib.entry("model", kind=style, depth=1)
    for name, depth in towers.items():
        config[name].depth = depth
    if towers:
        del config.logit
    return models.from_config(config)


def test_early_fusion_has_no_towers_to_compare():
    early = fused("concat", image=0, text=0)
    assert set(early.outputs()) == {
        "image/tokens", "text/tokens", "text/logits", "text/lm_head", "fusion/tokens",
        "fusion/match",
    }  # fmt: skip
    params = tiny.params(early)
    assert not {"logit_scale"} & params.keys()
    assert "blocks" not in params["image"] | params["text"]


def test_a_bottleneck_gives_no_caption():
    """A text sees all of itself through it, whatever `text_ar` says; the objective refuses it."""
    columns = ("image", "text", "text_mask", "text_ar")
    for style in ("concat", "cross", "bottleneck"):
        (read,) = [f.reads for f in fused(style).module("fusion").functions("fusion")]
        assert ("text_ar" in dict(read).values()) == (style != "bottleneck")
        seen = fused(style).sources(("fusion/tokens",), columns)
        assert ("text_ar" in seen) == (style != "bottleneck")
    config = tiny.config()
    config.model.fusion = config_lib.entry("model", kind="bottleneck")
    config.objectives = {"caption": config_lib.entry("objectives")}
    with pytest.raises(UserError, match="a bottleneck is not causal"):
        objectives.build(config.objectives, config.model)
    assert "fusion/match" not in fused("none").outputs()


def test_tokens_that_are_given_run_no_tower():
    model = fused("cross")
    params, batch = tiny.params(model), tiny.batch(tiny.config().model, size=2)
    whole = model.apply({"params": params}, batch, ("image/tokens", "text/tokens", "fusion/match"))
    given = {name: whole[name] for name in ("image/tokens", "text/tokens")}
    without = {"fusion": params["fusion"]}
    again = model.apply(
        {"params": without}, given | {"text_mask": batch["text_mask"]}, ("fusion/match",)
    )
    np.testing.assert_allclose(again["fusion/match"], whole["fusion/match"], atol=1e-6)


@pytest.mark.parametrize("style", ["concat", "cross"])
def test_image_dropout_leaves_out_a_share_of_what_the_tower_made(style):
    """In training the texts see the class token and a random share of the others; the fusion of the
    rows that were drawn, given alone, is the same. In evaluation they see all."""
    fusion, params, (text, mask, image) = made(style, "pre")
    some = fusion.clone(image_dropout=0.5)
    rngs = {"dropout": jax.random.key(3)}
    every = np.ones(image.shape[:2], bool)
    every[1, -1] = False
    kept, seen = some.apply({"params": params}, image, every, rngs=rngs, method="drop_tokens")
    assert kept.shape == (B, 1 + 2, WIDTH)  # of N = 4, one is the class token
    np.testing.assert_array_equal(kept[:, 0], image[:, 0])
    for row, (tokens, valid) in enumerate(zip(np.asarray(kept), np.asarray(seen), strict=True)):
        at = [int(np.flatnonzero((image[row] == token).all(axis=1))[0]) for token in tokens]
        assert at == sorted(set(at))
        np.testing.assert_array_equal(valid, every[row, at])

    def tokens(module, image, image_mask, **options):
        found = module.apply(
            {"params": params}, ("tokens",), text, mask, image, image_mask,
            method="outputs", **options,
        )  # fmt: skip
        return np.asarray(found["tokens"])

    np.testing.assert_array_equal(tokens(some, image, every), tokens(fusion, image, every))
    trained = tokens(some, image, every, train=True, rngs=rngs)
    np.testing.assert_allclose(trained, tokens(fusion, kept, seen), atol=1e-6)
    assert np.abs(trained - tokens(fusion, image, every)).max() > 1e-3
    other = tokens(some, image, every, train=True, rngs={"dropout": jax.random.key(4)})
    assert np.abs(trained - other).max() > 1e-3
