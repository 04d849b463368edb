"""Name tables of timm's convolutions in open_clip: ConvNeXt, and the stems of two transformers."""

from ml_collections import ConfigDict

from mmjax.interop.huggingface.architecture import linear, norm
from mmjax.interop.table import CONV, Row

TRUNK = "visual.trunk"


def convnext(image: ConfigDict) -> list[Row]:
    """A ConvNeXt's, but for its projection."""
    result = [
        *conv("image/patch_embed", f"{TRUNK}.stem.0"),
        *norm("image/norm_patch", f"{TRUNK}.stem.1"),
    ]
    for stage in range(len(image.stages)):
        ours, theirs = f"image/stage{stage + 1}", f"{TRUNK}.stages.{stage}"
        if stage:
            result += norm(f"{ours}/norm", f"{theirs}.downsample.0")
            result += conv(f"{ours}/conv", f"{theirs}.downsample.1")
        ours, theirs = f"{ours}/blocks", f"{theirs}.blocks.{{}}"
        result += [
            *conv(f"{ours}/conv", f"{theirs}.conv_dw"),
            *norm(f"{ours}/norm", f"{theirs}.norm"),
            *linear(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1"),
            *linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2"),
            Row(f"{ours}/layer_scale", f"{theirs}.gamma"),
        ]
    return result + norm("image/norm_post", f"{TRUNK}.head.norm")


def conv_stem() -> list[Row]:
    """MobileCLIP-B's."""
    ours, theirs = "image/stem", f"{TRUNK}.patch_embed.backbone"
    return [
        *(row
          for i in (1, 2)
          for row in conv_and_norm(ours, i, theirs, f"{i - 1}.conv", f"{i - 1}.bn")),
        *conv(f"{ours}/conv3", f"{theirs}.2.conv"),
    ]  # fmt: skip


def mbconv_stem() -> list[Row]:
    """ViTamin's."""
    ours, theirs = "image/stem", f"{TRUNK}.patch_embed.backbone"
    result = [
        *conv(f"{ours}/conv1", f"{theirs}.stem.conv1"),
        *norm(f"{ours}/norm1", f"{theirs}.stem.norm1"),
        *conv(f"{ours}/conv2", f"{theirs}.stem.conv2"),
    ]
    for stage, count in enumerate((2, 4)):
        for block in range(count):
            of = f"{ours}/stage{stage + 1}_block{block}"
            to = f"{theirs}.stages.{stage}.{block}"
            result += [
                *norm(f"{of}/norm", f"{to}.pre_norm"),
                *conv(f"{of}/conv1", f"{to}.conv1_1x1"),
                *conv(f"{of}/conv2", f"{to}.conv2_kxk"),
                *conv(f"{of}/conv3", f"{to}.conv3_1x1"),
            ]
            if stage and not block:
                result += conv(f"{of}/conv_shortcut", f"{to}.shortcut.expand")
    return [
        *result,
        *norm(f"{ours}/norm_pool", f"{theirs}.pool.norm"),
        *conv(f"{ours}/conv_pool", f"{theirs}.pool.proj"),
    ]


def conv(ours: str, theirs: str) -> list[Row]:
    """A convolution with a bias."""
    return [
        Row(f"{ours}/kernel", f"{theirs}.weight", CONV),
        Row(f"{ours}/bias", f"{theirs}.bias"),
    ]


def conv_and_norm(
    ours: str, which: int | str, theirs: str, conv: str, batch_norm: str
) -> list[Row]:
    """A convolution without one, and the batch norm after it."""
    return [
        Row(f"{ours}/conv{which}/kernel", f"{theirs}.{conv}.weight", CONV),
        *norm(f"{ours}/norm{which}", f"{theirs}.{batch_norm}"),
        Row(f"{ours}/norm{which}/mean", f"{theirs}.{batch_norm}.running_mean"),
        Row(f"{ours}/norm{which}/var", f"{theirs}.{batch_norm}.running_var"),
    ]
