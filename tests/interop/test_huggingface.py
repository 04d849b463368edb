"""Export to CLIPModel and back, against transformers' own torch model."""

import functools
import json

import jax
import numpy as np
import pytest
from pytorch import torch, transformers

from mmjax import config as config_lib
from mmjax import models
from mmjax.data.tokenize import train_tokenizer
from mmjax.errors import UserError
from mmjax.interop import registry
from mmjax.interop.formats import shapes
from mmjax.interop.huggingface import clip
from mmjax.models.parts import part

CAPTIONS = ["a red cat on a mat", "two dogs run", "the moon over a dark sea at night"]


@functools.cache
def tokenizer():
    return train_tokenizer(CAPTIONS * 2, 560)


def export(folder, **content):
    registry.export(folder, "huggingface", **content)


def make_config(name="tiny", **model):
    config = config_lib.default()
    config.model = models.zoo.config(name)
    config.model.text.vocab_size = max(config.model.text.vocab_size, tokenizer().vocab_size)
    config.model.update(model)
    return config


def random_params(config, seed=0):
    """Parameters away from their initial zeros and ones, so that each matters."""
    init = functools.partial(models.init, models.from_config(config.model))
    shapes = jax.eval_shape(init, jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        center = 1.0 if path[-1].key == "scale" else 0.0
        spread = leaf.shape[-2] ** -0.5 if path[-1].key == "kernel" else 0.1
        return (center + spread * rng.normal(size=leaf.shape)).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    return params | {"logit_scale": np.asarray(np.log(50.0), np.float32)}


def batch_of(config, seed=1, count=5):
    """Random pictures; texts of every length up to the longest, padded with the end token or 0."""
    rng, size = np.random.default_rng(seed), config.model.image.size
    length, eot = config.model.text.context_length, tokenizer().eot_id
    lengths = np.linspace(2, length, count).astype(int)
    text = np.where(np.arange(count)[:, None] % 2, eot, 0) * np.ones((1, length), int)
    for row, n in zip(text, lengths, strict=True):
        row[: n - 1] = rng.integers(3, eot, n - 1)
        row[n - 1] = eot
    return {
        "image": rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8),
        "text": text.astype(np.int32),
        "text_mask": np.arange(length) < lengths[:, None],
    }


def ours(config, params, batch):
    outputs = ("image/embed", "text/embed", "logit/scale")
    apply = jax.jit(models.from_config(config.model).apply, static_argnums=2)
    return jax.tree.map(np.asarray, apply({"params": params}, batch, outputs))


def theirs(model, config, batch):
    image = batch["image"].astype(np.float32) / 255
    image = (image - np.float32(config.model.image.mean)) / np.float32(config.model.image.std)
    with torch.inference_mode():
        return model.eval()(
            pixel_values=torch.tensor(image.transpose(0, 3, 1, 2)),
            input_ids=torch.tensor(batch["text"]).long(),
        )


def assert_same(config, params, model, batch):
    mine, other = ours(config, params, batch), theirs(model, config, batch)
    np.testing.assert_allclose(mine["image/embed"], other.image_embeds, atol=1e-5, rtol=0)
    np.testing.assert_allclose(mine["text/embed"], other.text_embeds, atol=1e-5, rtol=0)
    scale = float(mine["logit/scale"])
    logits = scale * mine["image/embed"] @ mine["text/embed"].T
    np.testing.assert_allclose(logits, other.logits_per_image, atol=1e-6 * scale, rtol=0)
    # The comparison means something only if examples differ by far more than the tolerance.
    assert np.abs(mine["image/embed"][0] - mine["image/embed"][1]).max() > 0.01
    assert np.abs(mine["text/embed"][0] - mine["text/embed"][1]).max() > 0.01


def load(folder):
    model, report = transformers.CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu", "gelu_tanh"])
def test_exported_folder_gives_the_same_embeddings(tmp_path, activation):
    config = make_config()
    config.model.image.activation = config.model.text.activation = activation
    config.model.image.depth, config.model.text.norm_eps = 3, 1e-6
    params = random_params(config)
    export(tmp_path / "out", config=config, params=params, tokenizer=tokenizer())
    assert_same(config, params, load(tmp_path / "out"), batch_of(config))


def test_full_size_vit_b32(tmp_path):
    config = make_config("ViT-B/32-quickgelu")
    params = random_params(config)
    export(tmp_path / "out", config=config, params=params, tokenizer=tokenizer())
    model = load(tmp_path / "out")
    assert sum(p.numel() for p in model.parameters()) == 151_277_313
    found = registry.open_weights(tmp_path / "out").read(shapes(config.model))
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert_same(config, params, model, batch_of(config, count=3))


def test_import_then_export_is_bit_identical():
    torch.manual_seed(0)
    config = make_config()
    side, text = config.model.image, config.model.text

    def tower(part):
        return {
            "hidden_size": part.width, "intermediate_size": part.mlp_dim,
            "num_hidden_layers": part.depth, "num_attention_heads": part.heads,
            "hidden_act": part.activation,
        }  # fmt: skip

    model = transformers.CLIPModel(transformers.CLIPConfig(
        vision_config=tower(side) | {"image_size": side.size, "patch_size": side.patch_size},
        text_config=tower(text) | {
            "vocab_size": text.vocab_size, "max_position_embeddings": text.context_length,
            "eos_token_id": tokenizer().eot_id,
        },
        projection_dim=config.model.embed_dim,
    ))  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    params = clip.MODEL.family.read(state, config.model)
    assert_same(config, params, model, batch_of(config))
    again = clip.MODEL.family.write(params, config.model)
    assert set(again) == set(state)
    for name, array in state.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array, err_msg=name)


def test_export_works_under_a_mesh_of_eight():
    from mmjax.parallel.mesh import make_mesh

    config = make_config()
    params = random_params(config)
    with jax.set_mesh(make_mesh(fsdp=8)):
        state = clip.MODEL.family.write(params, config.model)
    np.testing.assert_equal(clip.MODEL.family.read(state, config.model), params)


def test_folder_holds_tokenizer_and_preprocessing(tmp_path):
    config = make_config()
    config.model.image.mean = (0.5, 0.25, 0.125)
    export(tmp_path, config=config, params=random_params(config), tokenizer=tokenizer())
    processor = transformers.CLIPProcessor.from_pretrained(tmp_path)
    texts = [*CAPTIONS, "x" * 200]
    found = processor(text=texts, padding="max_length", truncation=True, return_tensors="np")
    ids, mask = tokenizer().encode(texts, config.model.text.context_length)
    np.testing.assert_array_equal(found["input_ids"], ids)
    np.testing.assert_array_equal(found["attention_mask"], mask)

    picture = np.full((40, 80, 3), (255, 0, 51), np.uint8)
    pixels = processor(images=picture, return_tensors="np")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32)
    expected = (np.array([1, 0, 0.2]) - config.model.image.mean) / config.model.image.std
    np.testing.assert_allclose(pixels[0, :, 16, 16], expected, atol=1e-5)

    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["text_config"]["eos_token_id"] == tokenizer().eot_id
    assert settings["text_config"]["pad_token_id"] == tokenizer().pad_id
    assert settings["logit_scale_init_value"] == config.model.logit.initial


@pytest.mark.parametrize(
    ("tower", "key", "value", "reason"),
    [
        ("image", "kind", "resnet", r"its part 'image' is of the kind 'resnet'"),
        ("image", "pool", "map", r"image\.pool='map' would come back as 'cls'"),
        ("image", "pool", "mean", r"image\.pool='mean' would"),
        ("image", "position", "sincos", r"image\.position='sincos' would"),
        ("image", "norm_pre", False, r"image\.norm_pre=False would"),
        ("image", "patch_bias", True, r"image\.patch_bias=True would"),
        ("image", "head", "none", r"image\.head='none' would"),
        ("text", "causal", False, r"text\.causal=False would"),
        ("text", "pool", "last", r"text\.pool='last' would"),
        ("text", "position_offset", 2, r"text\.position_offset=2 would come back as 0"),
        ("text", "head", "linear_bias", r"text\.head='linear_bias' would"),
    ],
)
def test_what_clipmodel_cannot_hold_is_said(tmp_path, tower, key, value, reason):
    config = make_config()
    config.model[tower][key] = value
    with pytest.raises(UserError, match=f"cannot hold this model: .*{reason}"):
        export(tmp_path / "out", config=config, params={}, tokenizer=tokenizer())
    assert not (tmp_path / "out").exists()


def test_fused_towers_are_refused():
    config = make_config()
    config.model.fusion = part("cross")
    with pytest.raises(UserError, match="it has the part 'fusion'"):
        clip.MODEL.family.write({}, config.model)


def test_a_logit_bias_is_refused():
    config = make_config(logit={"bias": -10.0})
    with pytest.raises(UserError, match=r"logit\.bias=-10\.0 would come back as None"):
        clip.MODEL.family.write({}, config.model)


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path):
    config, folder = make_config(), tmp_path / "out"
    first, second = random_params(config, 0), random_params(config, 1)

    def write(params):
        export(folder, config=config, params=params, tokenizer=tokenizer())

    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and not an earlier export"):
        write(first)
    assert [p.name for p in folder.iterdir()] == ["thesis.txt"]

    (folder / "thesis.txt").unlink()
    write(first)
    assert len({p.stat().st_mode & 0o666 for p in [folder, *folder.iterdir()]}) == 1  # the umask's
    write(second)
    weights = load(folder).state_dict()
    np.testing.assert_array_equal(
        weights["visual_projection.weight"], second["image"]["head"]["kernel"].T
    )

    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds thesis\.txt"):
        write(first)
    assert (folder / "thesis.txt").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]  # no temporary folder stays


def test_a_failed_export_leaves_the_earlier_one(tmp_path):
    class Broken:
        eot_id = start_id = pad_id = 5

        def save(self, folder):
            raise OSError("disk full")

    config, folder = make_config(), tmp_path / "out"
    params = random_params(config)
    export(folder, config=config, params=params, tokenizer=tokenizer())
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(OSError, match="disk full"):
        export(folder, config=config, params=params, tokenizer=Broken())
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
