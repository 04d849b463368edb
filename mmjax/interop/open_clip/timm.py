"""Name tables of the image towers that open_clip takes from timm."""

from ml_collections import ConfigDict

from mmjax.interop.huggingface.architecture import linear, norm
from mmjax.interop.open_clip import convolutions
from mmjax.interop.open_clip.convolutions import TRUNK, conv
from mmjax.interop.table import LINEAR, Row
from mmjax.models.towers.vision import class_positions, has_class_token


def rows(image: ConfigDict) -> list[Row]:
    """The table of `config.model.image`."""
    if image.kind == "convnext":
        return convolutions.convnext(image) + head(image.head)
    width, first = image.width, has_class_token(image.pool)
    positions = (image.size // image.patch_size) ** 2 + class_positions(image)
    last = "fc_norm" if image.norm_pooled else "norm"
    return [
        *([Row("image/class_embed", f"{TRUNK}.cls_token", shape=(1, 1, width))] if first else []),
        *([Row("image/position_embed", f"{TRUNK}.pos_embed", shape=(1, positions, width))]
          if image.position == "learned" else []),
        *_stem(image),
        *(norm("image/norm_pre", f"{TRUNK}.norm_pre") if image.norm_pre else []),
        *_blocks(image, "image/blocks", TRUNK + ".blocks.{}"),
        *norm("image/norm_post", f"{TRUNK}.{last}"),
        *(_map_pool(width) if image.pool.startswith("map") else []),
        *head(image.head),
    ]  # fmt: skip


def _stem(image: ConfigDict) -> list[Row]:
    if image.stem == "convolutions":
        return convolutions.conv_stem()
    if image.stem == "mbconv":
        return convolutions.mbconv_stem()
    return conv("image/patch_embed", f"{TRUNK}.patch_embed.proj")[: 1 + image.patch_bias]


def head(name: str) -> list[Row]:
    """The projection, which is the trunk's or open_clip's own."""
    own = "visual.head"
    return {
        "none": [],
        "linear_bias": linear("image/head", f"{TRUNK}.head"),
        "linear": [Row("image/head/kernel", f"{own}.proj.weight", LINEAR)],
        "wide_mlp": [
            *linear("image/head_fc1", f"{own}.mlp.fc1"),
            Row("image/head_fc2/kernel", f"{own}.mlp.fc2.weight", LINEAR),
        ],
    }[name]


def _blocks(image: ConfigDict, ours: str, theirs: str) -> list[Row]:
    return [
        *norm(f"{ours}/norm1", f"{theirs}.norm1"),
        *_attention(image, f"{ours}/attention", f"{theirs}.attn"),
        *norm(f"{ours}/norm2", f"{theirs}.norm2"),
        *_mlp(image, f"{ours}/mlp", f"{theirs}.mlp"),
        *([Row(f"{ours}/layer_scale{i}", f"{theirs}.ls{i}.gamma") for i in (1, 2)]
          if image.layer_scale else []),
    ]  # fmt: skip


def _attention(image: ConfigDict, ours: str, theirs: str) -> list[Row]:
    names = ("query", "key", "value")
    if image.inner_norms:  # EVA-02: apart
        first = [
            row
            for name in names
            for row in linear(f"{ours}/{name}", f"{theirs}.{name[0]}_proj")[: 1 + (name != "key")]
        ]
        first += norm(f"{ours}/norm_out", f"{theirs}.norm")
    elif image.qkv_bias == "qv":
        first = packed(ours, names, f"{theirs}.qkv.")[:1]
        first += [Row(f"{ours}/{n}/bias", f"{theirs}.{n[0]}_bias") for n in ("query", "value")]
    else:
        first = packed(ours, names, f"{theirs}.qkv.")[: 1 + (image.qkv_bias == "qkv")]
    return [*first, *linear(f"{ours}/out", f"{theirs}.proj")]


def _mlp(image: ConfigDict, ours: str, theirs: str) -> list[Row]:
    if not image.gated:
        return [*linear(f"{ours}/fc1", f"{theirs}.fc1"), *linear(f"{ours}/fc2", f"{theirs}.fc2")]
    if image.mlp_norm:  # ViTamin
        return [
            *norm(f"{ours}/norm_in", f"{theirs}.norm"),
            *linear(f"{ours}/gate", f"{theirs}.w0"),
            *linear(f"{ours}/fc1", f"{theirs}.w1"),
            *linear(f"{ours}/fc2", f"{theirs}.w2"),
        ]
    return [
        *linear(f"{ours}/gate", f"{theirs}.fc1_g"),
        *linear(f"{ours}/fc1", f"{theirs}.fc1_x"),
        *norm(f"{ours}/norm", f"{theirs}.norm"),
        *linear(f"{ours}/fc2", f"{theirs}.fc2"),
    ]


def _map_pool(width: int) -> list[Row]:
    pool, theirs = "image/pool", f"{TRUNK}.attn_pool"
    return [
        Row(f"{pool}/probe", f"{theirs}.latent", shape=(1, 1, width)),
        *linear(f"{pool}/attention/query", f"{theirs}.q"),
        *packed(f"{pool}/attention", ("key", "value"), f"{theirs}.kv."),
        *linear(f"{pool}/attention/out", f"{theirs}.proj"),
        *norm(f"{pool}/norm", f"{theirs}.norm"),
        *linear(f"{pool}/mlp/fc1", f"{theirs}.mlp.fc1"),
        *linear(f"{pool}/mlp/fc2", f"{theirs}.mlp.fc2"),
    ]


def packed(ours: str, names: tuple[str, ...], theirs: str) -> list[Row]:
    """Several linear layers as one, their outputs side by side."""
    return [
        Row(tuple(f"{ours}/{name}/kernel" for name in names), f"{theirs}weight", LINEAR),
        Row(tuple(f"{ours}/{name}/bias" for name in names), f"{theirs}bias"),
    ]
