"""SigLIP's form of the towers (attention pooling, bias, no causality) against transformers."""

import functools

import jax
import numpy as np
import tiny
from pytorch import torch, transformers

from mmjax import models
from mmjax.models import zoo


def our_params(state, depth):
    """transformers' SiglipModel in our tree."""

    def linear(name):
        return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}

    def norm(name):
        return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    def block(name):
        names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
        return {
            "norm1": norm(f"{name}.layer_norm1"),
            "attention": {a: linear(f"{name}.self_attn.{b}") for a, b in names.items()},
            "norm2": norm(f"{name}.layer_norm2"),
            "mlp": {"fc1": linear(f"{name}.mlp.fc1"), "fc2": linear(f"{name}.mlp.fc2")},
        }

    def tower(name):
        layers = [block(f"{name}.encoder.layers.{i}") for i in range(depth)]
        return {
            "blocks": jax.tree.map(lambda *x: np.stack(x), *layers),
            "norm_post": norm(f"{name}.{'post' if 'vision' in name else 'final'}_layer_norm"
                              .replace("post_layer_norm", "post_layernorm")),
            "position_embed": state[f"{name}.embeddings.position_embedding.weight"],
        }  # fmt: skip

    head, patches = "vision_model.head", "vision_model.embeddings.patch_embedding"
    packed = zip(
        np.split(state[f"{head}.attention.in_proj_weight"], 3),
        np.split(state[f"{head}.attention.in_proj_bias"], 3),
        strict=True,
    )
    attention = {
        name: {"kernel": weight.T, "bias": bias}
        for name, (weight, bias) in zip(("query", "key", "value"), packed, strict=True)
    }
    return {
        "image": {
            **tower("vision_model"),
            "patch_embed": {
                "kernel": state[f"{patches}.weight"].transpose(2, 3, 1, 0),
                "bias": state[f"{patches}.bias"],
            },
            "pool": {
                "probe": state[f"{head}.probe"][0],
                "attention": attention | {"out": linear(f"{head}.attention.out_proj")},
                "norm": norm(f"{head}.layernorm"),
                "mlp": {"fc1": linear(f"{head}.mlp.fc1"), "fc2": linear(f"{head}.mlp.fc2")},
            },
        },
        "text": {
            **tower("text_model"),
            "token_embed": {"embedding": state["text_model.embeddings.token_embedding.weight"]},
            "head": linear("text_model.head"),
        },
        "logit_scale": state["logit_scale"][0],
        "logit_bias": state["logit_bias"][0],
    }


def test_embeddings_scale_and_bias_equal_transformers():
    config = zoo.config("tiny-siglip")
    model = models.from_config(config)
    tower = {
        "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "hidden_act": "gelu_pytorch_tanh",
    }  # fmt: skip
    torch.manual_seed(0)
    peer = transformers.SiglipModel(
        transformers.SiglipConfig(
            vision_config={**tower, "image_size": 32, "patch_size": 8},
            text_config={**tower, "vocab_size": 512, "max_position_embeddings": 16,
                         "projection_size": 64},
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in peer.parameters():  # their biases start at zero, and would hide
            parameter.add_(0.1 * torch.randn_like(parameter))
    state = {name: x.numpy() for name, x in peer.state_dict().items()}
    params = our_params(state, depth=2)
    wanted = jax.tree.map(lambda x: x.shape, tiny.shapes(model))
    assert jax.tree.map(lambda x: x.shape, params) == wanted

    batch = tiny.batch(config, size=3)
    embed = jax.jit(functools.partial(model.apply, outputs=model.outputs()))
    outputs = embed({"params": params}, batch)
    pixels = torch.tensor(batch["image"] / 127.5 - 1, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        theirs = peer(input_ids=torch.tensor(batch["text"]).long(), pixel_values=pixels)
    np.testing.assert_allclose(outputs["image/embed"], theirs.image_embeds, atol=2e-6)
    np.testing.assert_allclose(outputs["text/embed"], theirs.text_embeds, atol=2e-6)
    logits = outputs["logit/scale"] * outputs["image/embed"] @ outputs["text/embed"].T
    np.testing.assert_allclose(logits + outputs["logit/bias"], theirs.logits_per_image, atol=1e-5)
