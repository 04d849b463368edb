"""Floating-point operations of a model, counted from its shapes (a multiply-add is two)."""

from ml_collections import ConfigDict

from mmjax.models.vision import has_class_token


def forward_flops(config: ConfigDict, text_length: int | None = None) -> int:
    """FLOPs of embedding one image–text pair (what of it the model has a tower for) with
    `config.model`, and of fusing it where there is a fusion; matmuls only, as MFU counts. More
    views, and heads over the vocabulary, are the objectives', and do not count.

    `text_length`: tokens a text is padded to; None is the full context. A train step is three
    times as much (Kaplan et al., 2020, appendix B of Chowdhery et al., 2022).
    """
    flops, image, text = 0, config.image, config.text
    if "image" in config.towers:
        if image.kind == "regions":
            flops += 2 * image.regions * image.region_width * image.width
        else:
            flops += _resnet(image) if image.kind == "resnet" else _vit(image, config.embed_dim)
        embeds = image.kind == "resnet" or (image.kind == "vit" and image.depth > 0)
        flops += _head(image.head, _image_width(config), config.embed_dim) * embeds
    if "text" in config.towers:
        length = text_length or text.context_length
        flops += _blocks(text, length + (text.pool == "appended"))
        flops += _head(text.head, text.width, config.embed_dim) * (text.depth > 0)
    if config.fusion.style != "none":
        flops += _fusion(config, text_length or text.context_length)
    return int(flops)


def _fusion(config: ConfigDict, length: int) -> int:
    """The layers of the fusion, made as the text tower's, on all tokens of an image and a text."""
    image, width, fusion = config.image, config.text.width, config.fusion
    tokens, from_width = image.regions, image.width
    if image.kind == "vit":
        tokens = (image.size // image.patch_size) ** 2
        tokens = max(1, round(tokens * (1 - image.patch_dropout))) + has_class_token(image.pool)
        if image.pool == "queries":
            tokens, from_width = image.queries - 1, config.embed_dim
    flops = 0 if from_width == width else 2 * tokens * from_width * width
    layers = ConfigDict({**config.text, "depth": fusion.depth})
    if fusion.style == "concat":
        return flops + _blocks(layers, tokens + length)
    if fusion.style == "bottleneck":
        return flops + sum(_blocks(layers, n + fusion.n_bottlenecks) for n in (tokens, length))
    to_image = 2 * (2 * length + 2 * tokens) * width**2 + 4 * length * tokens * width
    return flops + _blocks(layers, length) + fusion.depth * to_image


def _head(head: str, width: int, embed_dim: int) -> int:
    return 0 if head == "none" else 2 * width * embed_dim


def _image_width(config: ConfigDict) -> int:
    """Of what the image's head projects."""
    image = config.image
    if image.kind == "resnet":
        return 32 * image.width
    return config.embed_dim if image.pool == "queries" else image.width


def _vit(image: ConfigDict, embed_dim: int) -> int:
    patches = (image.size // image.patch_size) ** 2
    kept = max(1, round(patches * (1 - image.patch_dropout)))
    pixels = 3 * image.patch_size**2
    flops = 2 * patches * pixels * image.width
    flops += _blocks(image, kept + has_class_token(image.pool))
    if image.pool == "map":  # key and value of every token; query, output and MLP of one
        flops += 2 * kept * 2 * image.width**2 + 4 * (image.width + image.mlp_dim) * image.width
    if image.pool == "queries":  # the same of the first query, without MLP
        flops += 2 * (kept + 1) * 2 * image.width * embed_dim + 4 * embed_dim**2
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
