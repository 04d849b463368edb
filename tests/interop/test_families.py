"""Every family of transformers: in, the same numbers, out again, the same bits."""

import json
import types

import jax
import numpy as np
import peers
import pytest
import safetensors.numpy
from pytorch import torch, transformers

from mmjax import models
from mmjax.errors import UserError
from mmjax.interop import huggingface, registry, start
from mmjax.interop.formats import shapes
from mmjax.parallel import rules
from mmjax.parallel.mesh import make_mesh
from mmjax.params import path_string


def read(folder):
    weights = registry.open_weights(folder)
    return weights.config, weights.read(shapes(weights.config.model))


def reload(name, folder):
    model, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


# Compute positions of any.
SIZED = ("Dinov2Model", "Dinov2WithRegistersModel", "DINOv3ViTModel", "Tipsv2Model",
         "Aimv2VisionModel")  # fmt: skip


@pytest.mark.parametrize("name", [name for name in peers.SETTINGS if name != "MetaClip2Model"])
def test_in_and_out_again(tmp_path, name):
    model = peers.make(name)
    model.save_pretrained(tmp_path / "in")
    config, params = read(tmp_path / "in")
    batch = peers.batch(pad=1)
    peers.assert_same(name, config, params, model, batch)

    registry.export(tmp_path / "out", "huggingface", config=config, params=params)
    before, after = (
        safetensors.numpy.load_file(tmp_path / side / "model.safetensors") for side in ("in", "out")
    )
    if name == "AltCLIPModel":  # it writes other names than it is published with, and reads both
        old, new = "vision_model.encoder.layer.", "vision_model.encoder.layers."
        before = {key.replace(old, new): array for key, array in before.items()}
    assert set(after) == set(before)
    for key, array in before.items():
        assert after[key].dtype == array.dtype
        np.testing.assert_array_equal(after[key], array, err_msg=key)
    again = reload(name, tmp_path / "out")
    first, second = (peers.theirs(m, batch, **peers.normalization(config)) for m in (model, again))
    for output in peers.OUTPUTS[name].values():
        both = (peers.named(found, output) for found in (second, first))
        torch.testing.assert_close(*both, atol=0, rtol=0)


@pytest.mark.parametrize(("name", "size"), [*((name, 24) for name in SIZED), ("Dinov2Model", 12)])
def test_pictures_of_another_size_have_the_positions_of_transformers(tmp_path, name, size):
    model = peers.make(name)
    model.save_pretrained(tmp_path)
    weights = registry.open_weights(tmp_path)
    config = weights.config.copy_and_resolve_references()
    config.model.image.update(size=size, unroll=False)
    random = models.init(models.from_config(config.model), jax.random.key(0))
    params, _ = start.start_from(weights, config.model, random)
    peers.assert_same(name, config, params, model, peers.batch(size=size))


@pytest.mark.parametrize(("name", "changes"), [
    ("Dinov2Model", {"use_swiglu_ffn": True, "qkv_bias": False, "use_mask_token": False}),
    ("DINOv3ViTModel", {"use_gated_mlp": False, "hidden_act": "gelu", "key_bias": True}),
    ("DINOv3ViTModel", {"query_bias": False, "value_bias": False, "proj_bias": False,
                        "mlp_bias": False}),
])  # fmt: skip
def test_forms_of_dino_keep_their_names_and_numbers(tmp_path, name, changes):
    model = peers.make(name, **changes)
    model.save_pretrained(tmp_path / "in")
    config, params = read(tmp_path / "in")
    config.model.image.unroll = False
    peers.assert_same(name, config, params, model, peers.batch())
    registry.export(tmp_path / "out", "huggingface", config=config, params=params)
    reload(name, tmp_path / "out")


@pytest.mark.parametrize(("name", "changes", "outputs"), [
    ("Tipsv2Model", {"vision_config": {
        **peers.DINO, "use_swiglu_ffn": True, "qkv_bias": False, "mlp_ratio": 3.7}}, None),
    ("Aimv2VisionModel", {"is_native": False, "use_head": False, "qkv_bias": True,
                          "mlp_bias": True}, {"image/tokens": "last_hidden_state"}),
])  # fmt: skip
def test_forms_of_tips_and_aim_keep_their_names_and_numbers(tmp_path, name, changes, outputs):
    model = peers.make(name, **changes)
    model.save_pretrained(tmp_path / "in")
    config, params = read(tmp_path / "in")
    config.model.image.unroll = False
    peers.assert_same(name, config, params, model, peers.batch(), outputs=outputs)
    registry.export(tmp_path / "out", "huggingface", config=config, params=params)
    reload(name, tmp_path / "out")


def test_metaclip_2_pools_texts_at_the_first_id_2(tmp_path):
    """A CLIPModel takes 2 for the largest id: texts that end in 2 leave as MetaClip2Model."""
    model = peers.make("MetaClip2Model")
    model.save_pretrained(tmp_path / "in")
    config, params = read(tmp_path / "in")
    batch = peers.batch(pad=1)
    batch["text"] = np.where(batch["text"] == 2, 0, batch["text"])
    batch["text"] = np.where(batch["text"] == peers.VOCAB - 1, 2, batch["text"])
    peers.assert_same("MetaClip2Model", config, params, model, batch)
    words = types.SimpleNamespace(eot_id=2, pad_id=1, start_id=0, vocab_size=peers.VOCAB)
    leaves = huggingface.architecture_for(config.model, words)
    assert leaves.classes == ("MetaClip2Model",)
    settings = leaves.write_config(config.model, words).to_dict()
    assert leaves.pooled_at(settings) == 2
    state = leaves.family.write(params, config.model)
    before = safetensors.numpy.load_file(tmp_path / "in" / "model.safetensors")
    assert set(state) == set(before)
    for key, array in before.items():
        np.testing.assert_array_equal(state[key], array, err_msg=key)
    assert huggingface.architecture_for(config.model, None).classes == ("CLIPModel",)


@pytest.mark.parametrize("name", ["CLIPModel", "SiglipModel"])
def test_each_tower_has_its_own_activation(tmp_path, name):
    """CLIP's default is QuickGELU in both, SigLIP's is tanh; SigLIP 1 came with erf in its text."""
    acts = {"CLIPModel": ("gelu", "gelu_pytorch_tanh"), "SiglipModel": ("quick_gelu", "gelu")}[name]
    towers = {"vision_config": peers.VISION, "text_config": peers.CLIP_TEXT}
    towers = {
        part: {**keys, "hidden_act": act}
        for (part, keys), act in zip(towers.items(), acts, strict=True)
    }
    if name == "SiglipModel":
        towers["text_config"]["projection_size"] = 32
    model = peers.make(name, **towers)
    model.save_pretrained(tmp_path)
    config, params = read(tmp_path)
    peers.assert_same(name, config, params, model, peers.batch(pad=1))


@pytest.mark.parametrize("pad", [0, 1, peers.VOCAB - 1])
@pytest.mark.parametrize("eos", [2, peers.VOCAB - 1])
def test_clip_texts_end_where_they_end(tmp_path, eos, pad):
    """Configs before PR #24773 say eos_token_id 2; padding is 0 (open_clip), 1 or the end again."""
    model = peers.make("CLIPModel", text_config={**peers.CLIP_TEXT, "eos_token_id": eos})
    model.save_pretrained(tmp_path)
    config, params = read(tmp_path)
    peers.assert_same("CLIPModel", config, params, model, peers.batch(pad=pad))


@pytest.mark.parametrize(("dtype", "shards"), [(torch.float16, 3), (torch.bfloat16, 1)])
def test_half_precision_and_several_files(tmp_path, dtype, shards):
    model = peers.make("CLIPModel").to(dtype)
    size = sum(2 * p.numel() for p in model.parameters())
    model.save_pretrained(tmp_path, max_shard_size=size // shards + 1)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shards > 1)
    config, params = read(tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    peers.assert_same("CLIPModel", config, params, model.float(), peers.batch())


def test_a_pickled_state_dict(tmp_path):
    model = peers.make("BertForMaskedLM")
    model.save_pretrained(tmp_path)
    state = model.state_dict()  # with tied copies, as PyTorch's own files have them
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta"): x
        for name, x in state.items()
    }  # fmt: skip
    renamed["cls.seq_relationship.weight"] = torch.zeros(2, 32)
    renamed["bert.embeddings.position_ids"] = torch.arange(peers.LENGTH)[None]
    (tmp_path / "model.safetensors").unlink()
    torch.save(renamed, tmp_path / "pytorch_model.bin")
    config, params = read(tmp_path)
    peers.assert_same("BertForMaskedLM", config, params, model, peers.batch())


def test_a_headless_class_reads_files_of_the_whole_model(tmp_path):
    model = peers.make("RobertaForMaskedLM")
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings["architectures"] = ["RobertaModel"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    config, params = read(tmp_path)
    assert config.model.text.head == "none"
    assert not config.model.text.mlm_head
    batch = peers.batch(pad=1)
    found = peers.ours(config, params, batch, ("text/tokens",))["text/tokens"]
    expected = model.roberta(
        torch.tensor(batch["text"]).long(), torch.tensor(batch["text_mask"]).long()
    ).last_hidden_state.detach()
    mask = batch["text_mask"]
    np.testing.assert_allclose(found[mask], expected.numpy()[mask], atol=1e-5, rtol=0)


def test_the_masked_language_head_gives_logits_of_chosen_tokens_alone(tmp_path):
    peers.make("BertForMaskedLM").save_pretrained(tmp_path)
    config, params = read(tmp_path)
    found = peers.ours(config, params, peers.batch(), ("text/tokens", "text/logits"))
    chosen = found["text/tokens"][:, [1, 4]]  # [B, 2, W]
    model = models.from_config(config.model)
    logits = model.apply({"params": params}, {"text/tokens": chosen}, ("text/logits",))
    np.testing.assert_allclose(
        logits["text/logits"], found["text/logits"][:, [1, 4]], atol=1e-6, rtol=0
    )
    headless = models.create("tiny")
    with pytest.raises(ValueError, match="no output 'text/logits'"):
        headless.apply({"params": {}}, {"text/tokens": chosen}, ("text/logits",))


@pytest.mark.parametrize("name", ["CLIPModel", "SiglipModel", "BertForMaskedLM"])
def test_straight_into_the_shards_of_a_mesh(tmp_path, name):
    peers.make(name).save_pretrained(tmp_path)
    config, whole = read(tmp_path)
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    like = shapes(config.model)
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        like, rules.param_shardings(like, mesh),
    )  # fmt: skip
    params = registry.open_weights(tmp_path).read(like)
    split = 0
    for (path, x), target in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(like), strict=True
    ):
        assert x.sharding == target.sharding, path_string(path)
        split += not x.sharding.is_fully_replicated
    assert split > 8
    np.testing.assert_equal(jax.tree.map(np.asarray, params), whole)


def test_a_file_of_weights_reads_with_the_config_beside_it(tmp_path):
    peers.make("ViTModel").save_pretrained(tmp_path)
    weights = registry.open_weights(tmp_path / "model.safetensors")
    np.testing.assert_equal(weights.read(shapes(weights.config.model)), read(tmp_path)[1])
    (tmp_path / "config.json").write_text("{")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(UserError, match=r"config\.json is not JSON .*get it again"):
            registry.open_weights(path)


def test_weights_of_another_depth_are_said_by_name(tmp_path):
    peers.make("ViTModel").save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match=rf"the weights in {tmp_path} lack encoder\.layer\.2"):
        read(tmp_path)


def test_a_decoder_of_its_own_is_refused(tmp_path):
    peers.make("BertForMaskedLM", tie_word_embeddings=False).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="unembedding is another matrix than its embedding"):
        read(tmp_path)


def test_an_unknown_architecture_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["T5Model"]}))
    with pytest.raises(UserError, match=r"holds a T5Model, which mmjax cannot read.*SiglipModel"):
        registry.open_weights(tmp_path)


def test_what_is_missing_in_a_folder_is_named(tmp_path):
    peers.make("CLIPModel").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no weights: one of model\.safetensors"):
        registry.open_weights(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="holds no weights that mmjax knows"):
        registry.open_weights(tmp_path)
    with pytest.raises(UserError, match=r"nowhere: there is no such file or folder"):
        registry.open_weights(tmp_path / "nowhere")
