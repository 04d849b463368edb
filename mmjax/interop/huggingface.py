"""Hugging Face's CLIPModel: the name table, and a folder that transformers loads in PyTorch.

Neither direction needs torch. What CLIPModel cannot hold is refused with the reason.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from ml_collections import ConfigDict

from mmjax import models
from mmjax.data.tokenize import Tokenizer
from mmjax.errors import UserError
from mmjax.interop.folder import replaced
from mmjax.interop.table import CONV, LINEAR, Row, from_theirs, to_theirs

ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}


def _norm(ours: str, theirs: str) -> list[Row]:
    return [Row(f"{ours}/scale", f"{theirs}.weight"), Row(f"{ours}/bias", f"{theirs}.bias")]


def _linear(ours: str, theirs: str) -> list[Row]:
    return [
        Row(f"{ours}/kernel", f"{theirs}.weight", LINEAR),
        Row(f"{ours}/bias", f"{theirs}.bias"),
    ]


def _blocks(ours: str, theirs: str) -> list[Row]:
    ours, theirs = f"{ours}/blocks", f"{theirs}.encoder.layers.{{}}"
    return [
        *_norm(f"{ours}/norm1", f"{theirs}.layer_norm1"),
        *_linear(f"{ours}/attention/query", f"{theirs}.self_attn.q_proj"),
        *_linear(f"{ours}/attention/key", f"{theirs}.self_attn.k_proj"),
        *_linear(f"{ours}/attention/value", f"{theirs}.self_attn.v_proj"),
        *_linear(f"{ours}/attention/out", f"{theirs}.self_attn.out_proj"),
        *_norm(f"{ours}/norm2", f"{theirs}.layer_norm2"),
        *_linear(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1"),
        *_linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2"),
    ]


_VISION, _TEXT = "vision_model.embeddings", "text_model.embeddings"
CLIP: tuple[Row, ...] = (
    Row("image/patch_embed/kernel", f"{_VISION}.patch_embedding.weight", CONV),
    Row("image/class_embed", f"{_VISION}.class_embedding"),
    Row("image/position_embed", f"{_VISION}.position_embedding.weight"),
    *_norm("image/norm_pre", "vision_model.pre_layrnorm"),  # their spelling
    *_blocks("image", "vision_model"),
    *_norm("image/norm_post", "vision_model.post_layernorm"),
    Row("image/head/kernel", "visual_projection.weight", LINEAR),
    Row("text/token_embed/embedding", f"{_TEXT}.token_embedding.weight"),
    Row("text/position_embed", f"{_TEXT}.position_embedding.weight"),
    *_blocks("text", "text_model"),
    *_norm("text/norm_post", "text_model.final_layer_norm"),
    Row("text/head/kernel", "text_projection.weight", LINEAR),
    Row("logit_scale", "logit_scale"),
)


def to_state_dict(params: Any, config: ConfigDict) -> dict[str, np.ndarray]:
    """The parameters under CLIPModel's names, in its layout.

    Args:
      params: our tree; every array must be whole on this host.
      config: the run's config (its `model` part is read).

    Raises:
      UserError: CLIPModel cannot hold this model, or the parameters are not those of the config.
    """
    check_holds(config.model)
    return to_theirs(params, CLIP, _like(config))


def from_state_dict(state: Mapping[str, Any], config: ConfigDict) -> dict[str, Any]:
    """CLIPModel's state dict as our parameter tree (numpy, in the model's parameter dtype).

    Raises:
      UserError: a parameter is missing, unexpected or of another shape, by its name.
    """
    check_holds(config.model)
    return from_theirs(state, CLIP, _like(config))


def export(folder: str | Path, *, config: ConfigDict, params: Any, tokenizer: Tokenizer) -> None:
    """Writes a folder that `transformers.CLIPModel.from_pretrained` loads, all or nothing.

    It holds the weights (safetensors), config, image preprocessing, tokenizer and a model card. An
    earlier export in `folder` is replaced; a folder that holds anything else is left as it is.

    Raises:
      UserError: CLIPModel cannot hold the model or use the tokenizer, or `folder` is in the way.
    """
    state = to_state_dict(params, config)
    clip_config = _config(config.model, tokenizer)
    with replaced(folder, _is_export) as new:
        safetensors.numpy.save_file(
            state, new / "model.safetensors", metadata={"format": "pt", "producer": "mmjax"}
        )
        (new / "config.json").write_text(clip_config, encoding="utf-8")
        _write_json(new / "preprocessor_config.json", _preprocessor(config.model.image))
        tokenizer.save(new)
        settings = new / "tokenizer_config.json"
        length = {"model_max_length": config.model.text.context_length}
        _write_json(settings, json.loads(settings.read_text(encoding="utf-8")) | length)
        (new / "README.md").write_text(_card(config, state), encoding="utf-8")


def check_holds(model: ConfigDict) -> None:
    """Raises a UserError that says what in `config.model` CLIPModel has no place for."""
    image, text = model.image, model.text
    obstacles = {
        f"the image is pooled by {image.pool!r}, not by a class token": image.pool != "cls",
        f"image positions are {image.position!r}, not learned": image.position != "learned",
        "there is no norm before the image blocks": not image.norm_pre,
        "the patch embedding has a bias": image.patch_bias,
        f"the image head is {image.head!r}, not 'linear'": image.head != "linear",
        "the text tower is not causal": not text.causal,
        f"text is pooled by {text.pool!r}, not at its end token": text.pool != "eot",
        f"the text head is {text.head!r}, not 'linear'": text.head != "linear",
        "it has a logit bias": model.logit_bias_init is not None,
    }
    found = [reason for reason, present in obstacles.items() if present]
    if found:
        raise UserError(f"Hugging Face's CLIPModel cannot hold this model: {'; '.join(found)}.")


def _like(config: ConfigDict) -> Any:
    """Shapes and dtypes of the config's parameters."""
    model = models.from_config(config.model)
    return jax.eval_shape(functools.partial(models.init, model), jax.random.key(0))


def _config(model: ConfigDict, tokenizer: Tokenizer) -> str:
    """config.json. transformers pools text at the first `eos_token_id`, except that 2 stands for
    "the largest id", as in configs written before its PR #24773."""
    from transformers import CLIPConfig  # seconds to import

    if tokenizer.eot_id == 2:
        raise UserError(
            "The tokenizer's end token has id 2, which transformers' CLIPModel takes for an old "
            "config and pools text at its largest id: use a tokenizer with another end id."
        )

    def tower(part: ConfigDict) -> dict[str, Any]:
        return {
            "hidden_size": part.width,
            "intermediate_size": part.mlp_dim,
            "num_hidden_layers": part.depth,
            "num_attention_heads": part.heads,
            "hidden_act": ACTIVATIONS[part.activation],
            "layer_norm_eps": part.norm_eps,
            "projection_dim": model.embed_dim,
        }

    config = CLIPConfig(
        architectures=["CLIPModel"],
        dtype="float32",
        projection_dim=model.embed_dim,
        logit_scale_init_value=model.logit_scale_init,
        vision_config={
            **tower(model.image),
            "image_size": model.image.size,
            "patch_size": model.image.patch_size,
        },
        text_config={
            **tower(model.text),
            "vocab_size": model.text.vocab_size,
            "max_position_embeddings": model.text.context_length,
            "bos_token_id": tokenizer.start_id,
            "eos_token_id": tokenizer.eot_id,
            "pad_token_id": tokenizer.pad_id,
        },
    )
    return config.to_json_string(use_diff=False)  # defaults too: they have changed before


def _preprocessor(image: ConfigDict) -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": image.size},
        "resample": 3,  # PIL's bicubic
        "do_center_crop": True,
        "crop_size": {"height": image.size, "width": image.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
    }


def _card(config: ConfigDict, state: Mapping[str, np.ndarray]) -> str:
    model, count = config.model, sum(array.size for array in state.values())
    return f"""---
library_name: transformers
pipeline_tag: zero-shot-image-classification
tags: [clip, mmjax]
---
# {model.name}

A CLIP model of {count:,} parameters, from an mmjax (JAX) run of {config.total_steps:,} steps of
{config.batch_size:,} image-text pairs. Images are {model.image.size} x {model.image.size} pixels,
texts at most {model.text.context_length} tokens.

```python
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

model, processor = CLIPModel.from_pretrained("."), CLIPProcessor.from_pretrained(".")
inputs = processor(text=["a cat", "a dog"], images=Image.open("picture.jpg"), return_tensors="pt",
                   padding=True, truncation=True)
print(model(**inputs).logits_per_image.softmax(dim=-1))
```
"""


def _is_export(folder: Path) -> bool:
    try:
        with safetensors.safe_open(folder / "model.safetensors", framework="numpy") as weights:
            return (weights.metadata() or {}).get("producer") == "mmjax"
    except (OSError, safetensors.SafetensorError):
        return False


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
