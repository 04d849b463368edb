"""The checks of `config.model`: towers, fusion, tags and regions that go together."""

from ml_collections import ConfigDict

from mmjax.errors import UserError


def check_model(model: ConfigDict) -> None:
    """Checks that the keys of `config.model` fit each other.

    Raises:
      UserError: names the key and the remedy.
    """
    towers, image, text = model.towers, model.image, model.text
    if not towers or set(towers) - {"image", "text"}:
        raise UserError(
            f"config.model.towers={towers!r}: choose ('image', 'text'), ('image',) or ('text',)."
        )
    for name in towers:
        tower = model[name]
        if name == "image" and tower.kind == "resnet":
            _check_resnet(tower)
        elif name == "image" and tower.kind == "regions":
            continue  # it has no layers
        elif tower.width % tower.heads:
            raise UserError(
                f"config.model.{name}: heads={tower.heads} does not divide width={tower.width}."
            )
    if image.pixel_head and image.patch_dropout:
        raise UserError(
            "config.model.image.pixel_head wants every patch: set config.model.image.patch_dropout="
            "0."
        )
    if "image" in towers and image.kind == "vit" and image.pool == "queries":
        if image.pixel_head:
            raise UserError(
                "config.model.image.pixel_head wants the patches' own tokens: set "
                "config.model.image.pool to another than 'queries'."
            )
        if image.queries < 2 or model.embed_dim % image.pool_heads:
            raise UserError(
                f"config.model.image: queries={image.queries} must be 2 or more, and pool_heads="
                f"{image.pool_heads} must divide config.model.embed_dim={model.embed_dim}."
            )
    if "text" in towers and text.pool == "appended" and (not text.causal or text.mask_padding):
        raise UserError(
            "config.model.text.pool='appended' has a mask of its own: set causal=True and "
            "mask_padding=False."
        )
    if image.kind == "vit" and image.patch_size > image.size:
        raise UserError(
            f"config.model.image.patch_size={image.patch_size} is larger than the image "
            f"(size={image.size})."
        )
    for name in towers:
        tower = model[name]
        embeds = name == "text" or tower.kind != "regions"
        if embeds and tower.head in ("none", "tanh") and tower.width != model.embed_dim:
            raise UserError(
                f"config.model.{name}.head={tower.head!r} wants width={tower.width} equal to "
                f"config.model.embed_dim={model.embed_dim}; or set head='linear'."
            )
    _check_fusion(model)
    _check_tags_and_regions(model)


def _check_resnet(image: ConfigDict) -> None:
    if len(image.stages) != 4 or image.size % 32 or image.width % 2:
        raise UserError(
            f"config.model.image: a resnet has four stages={image.stages}, a size={image.size} "
            f"that 32 divides and an even width={image.width}."
        )
    if 32 * image.width % image.heads:
        raise UserError(
            f"config.model.image: heads={image.heads} does not divide the resnet's "
            f"32 x width={32 * image.width}."
        )


def _check_fusion(model: ConfigDict) -> None:
    if model.fusion.style == "none":
        return
    if len(model.towers) != 2:
        raise UserError(
            f"config.model.fusion.style={model.fusion.style!r} fuses two towers, and "
            f"config.model.towers={model.towers!r}: set it to 'none'."
        )
    if model.image.kind == "resnet":
        raise UserError(
            f"config.model.fusion.style={model.fusion.style!r} fuses the tokens of a vision "
            "transformer: set config.model.image.kind='vit'."
        )
    if model.fusion.style != "concat" and not model.fusion.depth:
        raise UserError(
            f"config.model.fusion.depth=0 is a joint head on both towers, which style="
            f"{model.fusion.style!r} has not: set config.model.fusion.style='concat'."
        )


def _check_tags_and_regions(model: ConfigDict) -> None:
    text, style = model.text, model.fusion.style
    if model.image.kind == "regions" and "image" in model.towers:
        if style not in ("concat", "bottleneck"):
            raise UserError(
                "config.model.image.kind='regions' is read by a fusion that masks padding: set "
                "config.model.fusion.style to concat or bottleneck."
            )
        if min(model.image.regions, model.image.region_width) < 1:
            raise UserError("config.model.image.regions and region_width must be 1 or more.")
    if not text.tags:
        return
    if style != "concat" or text.depth or text.token_types < 2:
        raise UserError(
            f"config.model.text.tags={text.tags} are a third segment of an early fusion: set "
            "config.model.fusion.style='concat', config.model.text.depth=0 and token_types=2."
        )
    if not 2 <= text.tags <= text.context_length - 2:
        raise UserError(
            f"config.model.text.tags={text.tags} leaves no room: of context_length="
            f"{text.context_length} positions words and tags need two each."
        )
