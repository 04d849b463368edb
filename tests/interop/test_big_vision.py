"""big_vision's .npz files: SigLIP against open_clip's importer, ViTs against NumPy in float64."""

import jax
import ml_dtypes
import numpy as np
import open_clip_oracle as oracle
import pytest
from open_clip_oracle import open_clip

from mmjax import config as config_lib
from mmjax import models
from mmjax.errors import UserError
from mmjax.interop import formats, registry
from mmjax.models import parts

SIGLIP = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "vision_cfg": {
        "image_size": 32,
        "timm_model_name": "vit_tiny_patch8_siglip_32_tanh",
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 16, "vocab_size": 512, "width": 64, "heads": 4, "layers": 2,
        "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"},
    },
}  # fmt: skip
BLOCK = "encoderblock_{}"
MHA = "MultiHeadDotProductAttention_0"


def tower(rng, prefix, width=64, depth=2, heads=4):
    """Random parameters of an encoder under big_vision's names, written from its source."""
    d, mlp = width // heads, 4 * width
    found = {}

    def put(name, *shape, center=0.0):
        fan = np.prod(shape[:-1]) if len(shape) > 1 else 100
        found[name] = (center + fan**-0.5 * rng.normal(size=shape)).astype(np.float32)

    def norm(name):
        put(f"{name}/scale", width, center=1.0)
        put(f"{name}/bias", width)

    def attention(name):
        for part in ("query", "key", "value"):
            put(f"{name}/{part}/kernel", width, heads, d)
            put(f"{name}/{part}/bias", heads, d)
        put(f"{name}/out/kernel", heads, d, width)
        put(f"{name}/out/bias", width)

    def dense(name, *shape):
        put(f"{name}/kernel", *shape)
        put(f"{name}/bias", shape[-1])

    for layer in range(depth):
        block = f"{prefix}/{BLOCK.format(layer)}"
        norm(f"{block}/LayerNorm_0")
        attention(f"{block}/{MHA}")
        norm(f"{block}/LayerNorm_1")
        dense(f"{block}/MlpBlock_0/Dense_0", width, mlp)
        dense(f"{block}/MlpBlock_0/Dense_1", mlp, width)
    norm(f"{prefix}/encoder_norm")
    return found, put, norm, attention, dense


def vit(pool, classes=10, seed=0, prefix=""):
    rng = np.random.default_rng(seed)
    found, put, norm, attention, dense = tower(rng, f"{prefix}Transformer")
    dense(f"{prefix}embedding", 8, 8, 3, 64)
    put(f"{prefix}pos_embedding", 1, 16, 64)
    if pool == "cls":
        put(f"{prefix}cls", 1, 1, 64)
    if pool == "map":
        head = f"{prefix}MAPHead_0"
        put(f"{head}/probe", 1, 1, 64)
        attention(f"{head}/{MHA}")
        norm(f"{head}/LayerNorm_0")
        dense(f"{head}/MlpBlock_0/Dense_0", 64, 256)
        dense(f"{head}/MlpBlock_0/Dense_1", 256, 64)
    if classes:
        dense(f"{prefix}head", 64, classes)
    return found


def siglip(seed=0):
    found = vit("map", classes=0, seed=seed, prefix="img/")
    text, put, _, _, dense = tower(np.random.default_rng(seed + 1), "txt/Encoder_0")
    put("txt/Embed_0/embedding", 512, 64)
    put("txt/pos_embedding", 1, 16, 64)
    dense("txt/head", 64, 64)
    t, b = np.log(np.float32([10.0])), np.float32([-9.5])
    return found | text | {"t": t, "b": b}


def save(file, state):
    np.savez(file, **{f"params/{name}": array for name, array in state.items()})
    return file


def load(path):
    weights = registry.open_weights(path)
    return weights.config, weights.read(formats.shapes(weights.config.model))


def saved(folder):
    with np.load(folder / "model.npz") as file:
        return {name.removeprefix("params/"): file[name] for name in file.files}


def forward(state, image, pool, heads=4):
    """The scores of a ViT [B, classes] in float64, from uint8 images."""
    p = {name: array.astype(np.float64) for name, array in state.items()}

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        return x * p[f"{name}/scale"] + p[f"{name}/bias"]

    def attend(query, x, name):
        q, k, v = (
            np.einsum("blw,whd->bhld", y, p[f"{name}/{part}/kernel"])
            + p[f"{name}/{part}/bias"][:, None]
            for part, y in (("query", query), ("key", x), ("value", x))
        )
        a = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))
        y = a / a.sum(-1, keepdims=True) @ v
        return np.einsum("bhld,hdw->blw", y, p[f"{name}/out/kernel"]) + p[f"{name}/out/bias"]

    def mlp(x, name):
        x = x @ p[f"{name}/Dense_0/kernel"] + p[f"{name}/Dense_0/bias"]
        x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return x @ p[f"{name}/Dense_1/kernel"] + p[f"{name}/Dense_1/bias"]

    x = image / 127.5 - 1
    count, side = len(x), image.shape[1] // 8
    x = x.reshape(count, side, 8, side, 8, 3).swapaxes(2, 3).reshape(count, side**2, -1)
    x = x @ p["embedding/kernel"].reshape(-1, 64) + p["embedding/bias"] + p["pos_embedding"]
    if pool == "cls":
        x = np.concatenate([np.broadcast_to(p["cls"], (count, 1, 64)), x], axis=1)
    for layer in range(2):
        block = f"Transformer/{BLOCK.format(layer)}"
        y = norm(x, f"{block}/LayerNorm_0")
        x = x + attend(y, y, f"{block}/{MHA}")
        x = x + mlp(norm(x, f"{block}/LayerNorm_1"), f"{block}/MlpBlock_0")
    x = norm(x, "Transformer/encoder_norm")
    if pool == "map":
        probe = np.broadcast_to(p["MAPHead_0/probe"], (count, 1, 64))
        x = attend(probe, x, f"MAPHead_0/{MHA}")
        x = (x + mlp(norm(x, "MAPHead_0/LayerNorm_0"), "MAPHead_0/MlpBlock_0"))[:, 0]
    else:
        x = x[:, 0] if pool == "cls" else x.mean(axis=1)
    return x @ p["head/kernel"] + p["head/bias"]


@pytest.mark.parametrize("pool", ["mean", "cls", "map"])
def test_a_classifier_reads_computes_and_writes_as_there(tmp_path, pool):
    state = vit(pool)
    config, params = load(save(tmp_path / "vit.npz", state))
    assert (list(parts.sections(config.model)), config.model.image.pool) == (["image"], pool)
    image = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    model = models.from_config(config.model)
    output = "image/features"
    apply = jax.jit(model.apply, static_argnums=2)
    scores = apply({"params": params}, {"image": image}, (output,))[output]
    np.testing.assert_allclose(scores, forward(state, image, pool), atol=1e-5, rtol=0)

    registry.export(tmp_path / "out", "big_vision", config=config, params=params)
    np.testing.assert_equal(saved(tmp_path / "out"), state)
    np.testing.assert_equal(load(tmp_path / "out")[1], params)


def test_siglip_reads_computes_and_writes_as_open_clip_imports_it(tmp_path):
    oracle.register_tiny_siglip("vit_tiny_patch8_siglip_32_tanh", act_layer="gelu_tanh")
    state = siglip()
    file = save(tmp_path / "siglip.npz", state)
    theirs = open_clip.model.CustomTextCLIP(**SIGLIP).eval()
    open_clip.factory.load_checkpoint(theirs, str(file))
    config, params = load(file)
    assert (config.data.resize, config.model.image.mean) == ("squash", (0.5, 0.5, 0.5))

    rng = np.random.default_rng(1)
    batch = {
        "image": rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8),
        "text": rng.integers(0, 512, (3, 16)).astype(np.int32),
        "text_mask": np.ones((3, 16), bool),
    }
    model = models.from_config(config.model)
    outputs = ("image/embed", "text/embed", "logit/scale", "logit/bias")
    mine = jax.jit(model.apply, static_argnums=2)({"params": params}, batch, outputs)
    peer = oracle.outputs_of(theirs, batch, config.model.image.mean, config.model.image.std)
    for name in ("image/embed", "text/embed"):
        np.testing.assert_allclose(mine[name], peer[name], atol=1e-5, rtol=0)
    scale = float(mine["logit/scale"])
    logits = scale * mine["image/embed"] @ mine["text/embed"].T + mine["logit/bias"]
    np.testing.assert_allclose(logits, peer["logits"], atol=1e-6 * scale, rtol=0)

    registry.export(tmp_path / "out", "big_vision", config=config, params=params)
    np.testing.assert_equal(saved(tmp_path / "out"), state)


def test_scanned_blocks_read_as_those_of_a_layer_each(tmp_path):
    state = siglip()
    scanned = {name: x for name, x in state.items() if "encoderblock" not in name}
    for name in state:
        if "/encoderblock_0/" in name:
            layers = [state[name.replace("block_0", f"block_{i}")] for i in range(2)]
            scanned[name.replace("encoderblock_0", "encoderblock")] = np.stack(layers)
    config, params = load(save(tmp_path / "model.npz", state))
    np.testing.assert_equal(load(save(tmp_path / "scanned.npz", scanned))[1], params)
    assert config.model.text.depth == 2


def test_files_without_the_prefix_and_bfloat16_are_read(tmp_path):
    state = siglip()
    halves = {name: x.astype(ml_dtypes.bfloat16) for name, x in state.items()}
    np.savez(tmp_path / "half.npz", **halves)
    full = {name: x.astype(np.float32) for name, x in halves.items()}
    _, expected = load(save(tmp_path / "full.npz", full))
    np.testing.assert_equal(load(tmp_path / "half.npz")[1], expected)


def test_names_from_before_2022_are_read(tmp_path):
    state = vit("cls")
    old = {}
    for name, x in state.items():
        name = name.replace("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1")
        name = name.replace("LayerNorm_1", "LayerNorm_2").replace("MlpBlock_0", "MlpBlock_3")
        old[name] = x
    positions = old.pop("pos_embedding")
    # The class token had a position of its own, here a half of what is now the token.
    first = state["cls"] / 2
    old["Transformer/posembed_input/pos_embedding"] = np.concatenate([first, positions], axis=1)
    old["cls"] = first
    np.savez(tmp_path / "old.npz", **old)
    config, params = load(tmp_path / "old.npz")
    registry.export(tmp_path / "out", "big_vision", config=config, params=params)
    np.testing.assert_equal(saved(tmp_path / "out"), state)


def test_fixed_positions_are_no_parameters(tmp_path):
    state = vit("mean")
    state.pop("pos_embedding")
    config, params = load(save(tmp_path / "model.npz", state))
    assert config.model.image.position == "sincos"
    assert "position_embed" not in params["image"]


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("embedding/kernel", "neither a SigLIP nor a ViT of big_vision: it lacks embedding/kernel"),
        ("Transformer/encoderblock_1/LayerNorm_1/bias", "lack Transformer/encoderblock_1/Layer"),
    ],
)
def test_what_a_file_lacks_is_named(tmp_path, lost, said):
    state = vit("mean")
    state.pop(lost)
    with pytest.raises(UserError, match=said):
        load(save(tmp_path / "model.npz", state))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"image": {"activation": "gelu"}},
            r"image\.activation='gelu' would come back as 'gelu_tanh'",
        ),
        ({"text": {"norm_eps": 1e-5}}, r"text\.norm_eps=1e-05 would come back as 1e-06"),
        ({"image": {"norm_pre": True}}, r"image\.norm_pre=True would"),
        ({"text": {"causal": True}}, r"text\.causal=True would"),
        ({"text": {"norm": "post"}}, r"text\.norm='post' would"),
        ({"image": {"std": (1.0, 1.0, 1.0)}}, r"image\.std="),
    ],
)
def test_what_big_vision_cannot_hold_is_said(tmp_path, change, reason):
    config = config_lib.default()
    config.model = models.zoo.config("tiny-siglip")
    assert registry.FORMATS["big_vision"].card(config, None)
    config.model.update(change)
    with pytest.raises(UserError, match=f"big_vision cannot hold this model: .*{reason}"):
        registry.export(tmp_path / "out", "big_vision", config=config, params={})
