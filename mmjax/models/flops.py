"""Floating-point operations of a model, counted from its shapes (a multiply-add is two)."""

from ml_collections import ConfigDict


def forward_flops(config: ConfigDict, text_length: int | None = None) -> int:
    """FLOPs of embedding one image–text pair (what of it the model has a tower for) with
    `config.model`; matmuls only, as MFU counts.

    `text_length`: tokens a text is padded to; None is the full context. A train step is three
    times as much (Kaplan et al., 2020, appendix B of Chowdhery et al., 2022).
    """
    flops, image, text = 0, config.image, config.text
    if "image" in config.towers:
        flops += _resnet(image) if image.kind == "resnet" else _vit(image)
        flops += _head(image.head, _image_width(image), config.embed_dim)
    if "text" in config.towers:
        flops += _blocks(text, text_length or text.context_length)
        flops += _head(text.head, text.width, config.embed_dim)
    return int(flops)


def _head(head: str, width: int, embed_dim: int) -> int:
    return 0 if head == "none" else 2 * width * embed_dim


def _image_width(image: ConfigDict) -> int:
    return 32 * image.width if image.kind == "resnet" else image.width


def _vit(image: ConfigDict) -> int:
    patches = (image.size // image.patch_size) ** 2
    kept = max(1, round(patches * (1 - image.patch_dropout)))
    pixels = 3 * image.patch_size**2
    flops = 2 * patches * pixels * image.width
    flops += _blocks(image, kept + (image.pool == "cls"))
    if image.pool == "map":  # key and value of every token; query, output and MLP of one
        flops += 2 * kept * 2 * image.width**2 + 4 * (image.width + image.mlp_dim) * image.width
    return flops


def _resnet(image: ConfigDict) -> int:
    """Convolutions, and the pool's attention of one query over all cells and their mean."""
    side, width = image.size // 2, image.width
    flops = 2 * side**2 * 9 * (3 * width // 2 + (width // 2) ** 2 + width**2 // 2)  # the stem
    side, channels = side // 2, width
    for stage, count in enumerate(image.stages):
        planes = width * 2**stage
        for block in range(count):
            flops += 2 * side**2 * (channels * planes + 9 * planes**2)
            if stage and not block:  # pooled before the last convolution
                side //= 2
            flops += 2 * side**2 * planes * 4 * planes
            flops += 0 if block else 2 * side**2 * channels * 4 * planes  # the shortcut's
            channels = 4 * planes
    tokens = side**2 + 1
    return flops + 2 * channels**2 * (1 + 2 * tokens) + 4 * tokens * channels


def _blocks(tower: ConfigDict, tokens: int) -> int:
    linear = 2 * tokens * (4 * tower.width**2 + 2 * tower.width * tower.mlp_dim)
    attention = 2 * 2 * tokens**2 * tower.width
    return tower.depth * (linear + attention)
