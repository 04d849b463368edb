"""XCLIPModel of transformers (X-CLIP, Ni et al., 2022): videos, and texts that depend on them."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.errors import UserError
from mmjax.interop.files import Tensors
from mmjax.interop.formats import Family
from mmjax.interop.huggingface import preprocessor
from mmjax.interop.huggingface.architecture import (
    ACTIVATIONS,
    FROM_ACTIVATIONS,
    Architecture,
    clip_blocks,
    linear,
    norm,
    read_back,
    read_tower,
    write_tower,
)
from mmjax.interop.table import CONV, LINEAR, Row
from mmjax.interop.texts import LARGEST
from mmjax.models.parts import complete

_VISION, _TEXT = "vision_model.embeddings", "text_model.embeddings"
_BLOCKS, _MESSAGE = "vision_model.encoder.layers.{}", "video/blocks/message"
_OURS, _THEIRS = "prompts/blocks", "prompts_generator.decoder.{}"
ROWS: tuple[Row, ...] = (
    Row("video/patch_embed/kernel", f"{_VISION}.patch_embedding.weight", CONV),
    Row("video/class_embed", f"{_VISION}.class_embedding"),
    Row("video/position_embed", f"{_VISION}.position_embedding.weight"),
    *norm("video/norm_pre", "vision_model.pre_layernorm"),
    *clip_blocks("video", "vision_model"),
    *linear(f"{_MESSAGE}/fc", f"{_BLOCKS}.message_fc"),
    *norm(f"{_MESSAGE}/norm", f"{_BLOCKS}.message_ln"),
    *linear(f"{_MESSAGE}/attention/query", f"{_BLOCKS}.message_attn.q_proj"),
    *linear(f"{_MESSAGE}/attention/key", f"{_BLOCKS}.message_attn.k_proj"),
    *linear(f"{_MESSAGE}/attention/value", f"{_BLOCKS}.message_attn.v_proj"),
    *linear(f"{_MESSAGE}/attention/out", f"{_BLOCKS}.message_attn.out_proj"),
    *norm("video/norm_post", "vision_model.post_layernorm"),
    Row("video/head/kernel", "visual_projection.weight", LINEAR),
    *clip_blocks("video/time", "mit"),
    *norm("video/norm_patches", "prompts_visual_layernorm"),
    Row("video/patches_head/kernel", "prompts_visual_projection"),
    Row("text/token_embed/embedding", f"{_TEXT}.token_embedding.weight"),
    Row("text/position_embed", f"{_TEXT}.position_embedding.weight"),
    *clip_blocks("text", "text_model"),
    *norm("text/norm_post", "text_model.final_layer_norm"),
    Row("text/head/kernel", "text_projection.weight", LINEAR),
    *norm("prompts/norm", "prompts_generator.layernorm"),
    *norm(f"{_OURS}/norm1", f"{_THEIRS}.norm1"),
    Row(f"{_OURS}/cross/query/kernel", f"{_THEIRS}.cross_attn.q_proj.weight", LINEAR),
    Row(f"{_OURS}/cross/key/kernel", f"{_THEIRS}.cross_attn.k_proj.weight", LINEAR),
    Row(f"{_OURS}/cross/value/kernel", f"{_THEIRS}.cross_attn.v_proj.weight", LINEAR),
    *linear(f"{_OURS}/cross/out", f"{_THEIRS}.cross_attn.proj"),
    *norm(f"{_OURS}/norm2", f"{_THEIRS}.norm3"),
    *linear(f"{_OURS}/mlp/fc1", f"{_THEIRS}.mlp.0"),
    *linear(f"{_OURS}/mlp/fc2", f"{_THEIRS}.mlp.3"),
    Row("prompts/alpha", "prompts_generator.alpha"),
    Row("logit_scale", "logit_scale"),
)


def rows(model: ConfigDict) -> list[Row]:
    video = model.video
    positions = (1, video.frames, model.embed_dim)
    return [*ROWS, Row("video/time/position_embed", "mit.position_embedding", shape=positions)]


def read_config(settings: Mapping[str, Any], tensors: Tensors) -> ConfigDict:
    from transformers import XCLIPConfig

    theirs: Any = XCLIPConfig.from_dict(dict(settings))
    video, text = theirs.vision_config, theirs.text_config
    if video.mit_hidden_size != theirs.projection_dim:
        raise ValueError(
            f"mit_hidden_size={video.mit_hidden_size} is not projection_dim="
            f"{theirs.projection_dim}, and no model is so"
        )
    if theirs.prompt_hidden_act not in FROM_ACTIVATIONS:
        raise ValueError(f"its activation {theirs.prompt_hidden_act!r} is unknown here")
    return complete(
        {
            "embed_dim": theirs.projection_dim,
            "video": {
                "kind": "xclip",
                **read_tower(video),
                "size": video.image_size,
                "patch_size": video.patch_size,
                "frames": video.num_frames,
                "time_depth": video.mit_num_hidden_layers,
                "time_heads": video.mit_num_attention_heads,
                "time_mlp_dim": video.mit_intermediate_size,
            },
            "text": {
                "kind": "transformer",
                **read_tower(text),
                "vocab_size": text.vocab_size,
                "context_length": text.max_position_embeddings,
            },
            "prompts": {
                "depth": theirs.prompt_layers,
                "heads": theirs.prompt_num_attention_heads,
                "activation": FROM_ACTIVATIONS[theirs.prompt_hidden_act],
                "alpha": float(theirs.prompt_alpha),
            },
            "logit": {"kind": "scale", "initial": float(theirs.logit_scale_init_value)},
        }
    )


def write_config(model: ConfigDict, tokenizer: Tokenizer | None) -> Any:
    from transformers import XCLIPConfig

    video, text, prompts = model.video, model.text, model.prompts
    return XCLIPConfig(
        architectures=["XCLIPModel"],
        dtype="float32",
        projection_dim=model.embed_dim,
        logit_scale_init_value=model.logit.initial,
        prompt_layers=prompts.depth,
        prompt_num_attention_heads=prompts.heads,
        prompt_hidden_act=ACTIVATIONS[prompts.activation],
        prompt_alpha=prompts.alpha,
        vision_config={
            **write_tower(video),
            "image_size": video.size,
            "patch_size": video.patch_size,
            "num_frames": video.frames,
            "mit_hidden_size": model.embed_dim,
            "mit_num_hidden_layers": video.time_depth,
            "mit_num_attention_heads": video.time_heads,
            "mit_intermediate_size": video.time_mlp_dim,
        },
        text_config={
            **write_tower(text),
            **_tokens(text, tokenizer),
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
        },
    )


def _tokens(text: ConfigDict, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """transformers pools a text at its largest id, whatever the config says."""
    if tokenizer is None:
        start, end = text.vocab_size - 2, text.vocab_size - 1
        return {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    if tokenizer.eot_id != tokenizer.vocab_size - 1:
        raise UserError(
            f"The tokenizer ends texts with {tokenizer.eot_id}, and transformers' XCLIPModel pools "
            "them at their largest id: use a tokenizer whose end token is its last."
        )
    ids = {"eos_token_id": tokenizer.eot_id, "pad_token_id": tokenizer.pad_id}
    return ids | {"bos_token_id": tokenizer.start_id}


CARD = (
    "library_name: transformers\npipeline_tag: video-classification",
    """\
import numpy as np
from transformers import XCLIPModel, XCLIPProcessor

model, processor = XCLIPModel.from_pretrained("."), XCLIPProcessor.from_pretrained(".")
frames = np.zeros((model.config.vision_config.num_frames, 240, 320, 3), np.uint8)  # of a video
inputs = processor(text=["a cat", "a dog"], videos=list(frames), return_tensors="pt", padding=True)
print(model(**inputs).logits_per_video.softmax(dim=-1))""",
)

MODEL = Architecture(
    family=Family(
        "Hugging Face's XCLIPModel",
        rows=rows,
        parts=(
            {
                "video": ("xclip",), "text": ("transformer",), "prompts": ("prompts",),
                "logit": ("scale",),
            },
        ),
        read_back=read_back(rows, read_config, write_config),
        ignored=(r"(vision|text)_model\.embeddings\.position_ids",),
    ),
    model_type="xclip",
    classes=("XCLIPModel",),
    read_config=read_config,
    write_config=write_config,
    pooled_at=lambda settings: LARGEST,
    preprocessor=lambda config: preprocessor.write("VideoMAEImageProcessor", config),
    card=CARD,
)  # fmt: skip
