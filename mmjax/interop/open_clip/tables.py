"""Name tables of open_clip: its own CLIP (the names are OpenAI's) and its ResNet. Those of towers
that it takes from timm and transformers are beside."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from mmjax.interop.huggingface.architecture import linear, norm
from mmjax.interop.open_clip import encoders, timm, towers
from mmjax.interop.open_clip.convolutions import conv_and_norm
from mmjax.interop.table import CONV, LINEAR, Row


def rows(model: ConfigDict) -> Sequence[Row]:
    """The table of `config.model`, as open_clip's CLIP or CustomTextCLIP."""
    if towers.is_timms(model.image):
        image = timm.rows(model.image)
    else:
        image = _resnet(model) if model.image.kind == "resnet" else _vit(model)
    if encoders.is_transformers(model.text):
        text = encoders.rows(model.text)
    else:
        text = _text(model, "text." if has_own_text(model) else "")
    bias = [] if model.logit.bias is None else [Row("logit_bias", "logit_bias")]
    return [
        *image,
        *text,
        Row("logit_scale", "logit_scale"),
        *bias,
    ]


def has_own_text(model: ConfigDict) -> bool:
    """Whether today's open_clip keeps the text tower apart, under "text.": a CustomTextCLIP."""
    own = model.text.pool == "appended" or encoders.is_transformers(model.text)
    return own or towers.has_own_text(model.image)


def _vit(model: ConfigDict) -> list[Row]:
    return [
        Row("image/patch_embed/kernel", "visual.conv1.weight", CONV),
        Row("image/class_embed", "visual.class_embedding"),
        Row("image/position_embed", "visual.positional_embedding"),
        *(norm("image/norm_pre", "visual.ln_pre") if model.image.norm_pre else []),
        *_blocks(model.image, "image/blocks", "visual.transformer.resblocks.{}"),
        *(_query_pool(model) if model.image.pool == "queries" else []),
        *norm("image/norm_post", "visual.ln_post"),
        Row("image/head/kernel", "visual.proj"),
    ]


def _query_pool(model: ConfigDict) -> list[Row]:
    """PyTorch packs query, key and value where images are as wide as their embedding."""
    ours, theirs = "image/pool", "visual.attn_pool"
    attention, names = f"{ours}/attention", ("query", "key", "value")
    kernels = tuple(f"{attention}/{name}/kernel" for name in names)
    if model.image.width == model.embed_dim:
        matrices = [Row(kernels, f"{theirs}.attn.in_proj_weight", LINEAR)]
    else:
        matrices = [
            Row(kernel, f"{theirs}.attn.{name[0]}_proj_weight", LINEAR)
            for name, kernel in zip(names, kernels, strict=True)
        ]
    return [
        Row(f"{ours}/query_embed", f"{theirs}.query"),
        *norm(f"{ours}/norm_query", f"{theirs}.ln_q"),
        *norm(f"{ours}/norm_tokens", f"{theirs}.ln_k"),
        *matrices,
        Row(tuple(f"{attention}/{name}/bias" for name in names), f"{theirs}.attn.in_proj_bias"),
        *linear(f"{attention}/out", f"{theirs}.attn.out_proj"),
    ]


def _text(model: ConfigDict, prefix: str) -> list[Row]:
    head = {
        "none": [],
        "linear": [Row("text/head/kernel", f"{prefix}text_projection")],
        "linear_bias": linear("text/head", f"{prefix}text_projection"),
    }[model.text.head]
    return [
        Row("text/token_embed/embedding", f"{prefix}token_embedding.weight"),
        Row("text/position_embed", f"{prefix}positional_embedding"),
        *([Row("text/class_embed", f"{prefix}cls_emb")] if model.text.pool == "appended" else []),
        *_blocks(model.text, "text/blocks", prefix + "transformer.resblocks.{}"),
        *norm("text/norm_post", f"{prefix}ln_final"),
        *head,
    ]


def _blocks(tower: ConfigDict, ours: str, theirs: str) -> list[Row]:
    attention = f"{ours}/attention"
    scales = [Row(f"{ours}/layer_scale{i}", f"{theirs}.ls_{i}.gamma") for i in (1, 2)]
    return [
        *(scales if tower.layer_scale else []),
        *norm(f"{ours}/norm1", f"{theirs}.ln_1"),
        *timm.packed(attention, ("query", "key", "value"), f"{theirs}.attn.in_proj_"),
        *linear(f"{attention}/out", f"{theirs}.attn.out_proj"),
        *norm(f"{ours}/norm2", f"{theirs}.ln_2"),
        *linear(f"{ours}/mlp/fc1", f"{theirs}.mlp.c_fc"),
        *linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.c_proj"),
    ]


def _resnet(model: ConfigDict) -> list[Row]:
    result = []
    for i in (1, 2, 3):
        result += conv_and_norm("image/stem", i, "visual", f"conv{i}", f"bn{i}")
    for stage, count in enumerate(model.image.stages, start=1):
        for block in range(count):
            ours, theirs = f"image/stage{stage}_block{block}", f"visual.layer{stage}.{block}"
            for i in (1, 2, 3):
                result += conv_and_norm(ours, i, theirs, f"conv{i}", f"bn{i}")
            if block == 0:
                result += conv_and_norm(ours, "_shortcut", theirs, "downsample.0", "downsample.1")
    pool = "visual.attnpool"
    return [
        *result,
        Row("image/position_embed", f"{pool}.positional_embedding"),
        *(row for name in ("query", "key", "value")
          for row in linear(f"image/pool_{name}", f"{pool}.{name[0]}_proj")),
        *linear("image/head", f"{pool}.c_proj"),
    ]  # fmt: skip
