"""Floating-point operations of a model, counted from its shapes (a multiply-add is two)."""

from ml_collections import ConfigDict


def forward_flops(config: ConfigDict, text_length: int | None = None) -> int:
    """FLOPs of embedding one image–text pair with `config.model`; matmuls only, as MFU counts.

    `text_length`: tokens a text is padded to; None is the full context. A train step is three
    times as much (Kaplan et al., 2020, appendix B of Chowdhery et al., 2022).
    """
    image, text = config.image, config.text
    patches = (image.size // image.patch_size) ** 2
    kept = max(1, round(patches * (1 - image.patch_dropout)))
    pixels = 3 * image.patch_size**2
    flops = 2 * patches * pixels * image.width
    flops += _blocks(image, kept + (image.pool == "cls"))
    if image.pool == "map":  # key and value of every token; query, output and MLP of one
        flops += 2 * kept * 2 * image.width**2 + 4 * (image.width + image.mlp_dim) * image.width
    flops += _blocks(text, text_length or text.context_length)
    for tower in (image, text):
        flops += 0 if tower.head == "none" else 2 * tower.width * config.embed_dim
    return int(flops)


def _blocks(tower: ConfigDict, tokens: int) -> int:
    linear = 2 * tokens * (4 * tower.width**2 + 2 * tower.width * tower.mlp_dim)
    attention = 2 * 2 * tokens**2 * tower.width
    return tower.depth * (linear + attention)
