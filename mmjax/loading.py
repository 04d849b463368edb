"""`mmjax.load`: weights from anywhere, as a model; `mmjax.convert` and `mmjax.export` to anywhere.

clip = mmjax.load("openai/clip-vit-base-patch32")
clip.logits(images=[image], texts=["a cat", "a dog"])
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import flax.traverse_util
from ml_collections import ConfigDict

from mmjax import models, paths
from mmjax.data import Tokenizer
from mmjax.errors import UserError
from mmjax.inputs import IMAGE, VIDEO
from mmjax.interop import registry, run
from mmjax.interop.formats import shapes
from mmjax.interop.start import grouped, start_from
from mmjax.models.parts import of_model, sections
from mmjax.pretrained import Pretrained
from mmjax.runs.workdir import inference_shapes
from mmjax.schema import AUXILIARY, find

Normalise = Literal["before", "after", "both"]
log = logging.getLogger("mmjax.interop")


def export(
    workdir: str | Path,
    output: str | Path,
    format: str = "huggingface",
    *,
    parts: Sequence[str] = (),
) -> None:
    """Writes the weights of a run for other libraries.

    Args:
      workdir: of the run, whose newest checkpoint is written, or WORKDIR/checkpoints/STEP.
      output: the folder to write; an earlier export there is replaced.
      format: huggingface, open_clip, openai or big_vision.
      parts: of the model that are written, without what they have for training alone, such as a
        mask token; (): the whole model.

    Raises:
      UserError: there is no run or checkpoint, no such part, or the format has no place for the
        model.
    """
    workdir = paths.typed(str(workdir))
    if not run.detect(Path(workdir)):
        raise UserError(f"{workdir} is not a workdir of a run, nor a checkpoint of one.")
    found = load(workdir)
    (of_parts(found, parts) if parts else found).export(output, format)


def of_parts(found: Pretrained, names: Sequence[str]) -> Pretrained:
    """The model of these parts alone, without what only objectives read."""
    there = sections(found.config.model)
    for name in names:
        if name not in there:
            raise UserError(f"--parts: the model has no part {name!r}; it has {', '.join(there)}.")
    config = ConfigDict(found.config.to_dict())
    for name in there.keys() - set(names):
        del config.model[name]
    for path, key, _ in list(of_model(config.model)):
        if AUXILIARY in key.marks:
            config.model.update_from_flattened_dict({path: key.default})
    models.parts.check_model(config.model)
    flat = flax.traverse_util.flatten_dict(found.params)
    kept = flax.traverse_util.flatten_dict(shapes(config.model))
    params = flax.traverse_util.unflatten_dict({path: flat[path] for path in kept})
    return dataclasses.replace(
        found, config=config, model=models.from_config(config.model), params=params
    )


def convert(
    source: str | Path,
    target: str | Path,
    format: str,
    *,
    image_size: int | None = None,
    patch_size: int | None = None,
    tokenizer: str | Path | None = None,
) -> None:
    """Writes weights of any format in another, if wanted for images or patches of another size.

    Args:
      source: whatever `load` takes.
      target: the folder to write; an earlier export there is replaced.
      format: huggingface, open_clip, openai or big_vision.
      image_size, patch_size, tokenizer: as for `load`.

    Raises:
      UserError: as of `load`, or the format has no place for the model.
    """
    found = load(source, image_size=image_size, patch_size=patch_size, tokenizer=tokenizer)
    found.export(target, format)


def load(
    source: str | Path,
    *,
    image_size: int | None = None,
    patch_size: int | None = None,
    patches: int | None = None,
    frames: int | None = None,
    normalise: Normalise = "both",
    tokenizer: str | Path | None = None,
) -> Pretrained:
    """A model with its weights, tokenizer and preprocessing.

    Args:
      source: a folder or file in any format of `registry.FORMATS`, a workdir of mmjax or one of its
        checkpoints (WORKDIR/checkpoints/STEP), or a name on the Hugging Face hub.
      image_size: side of the pictures, if another than the weights were made for: the position
        embeddings are resized.
      patch_size: side of the patches, if another than the weights were made for: the patch kernel
        is resized by FlexiViT's pseudo-inverse, the positions as the new number of patches says.
        For smaller patches that is an approximation: fine-tune the model.
      patches: of a NaFlex model, which reads images in their own shape: the most patches of an
        image, if other than the weights say. More show more detail.
      frames: makes an image tower the part "video", which embeds so many frames of a video and
        takes their mean: the zero-shot baseline, without new parameters.
      normalise: with `frames`, what has unit length: each frame before the mean, the mean after it,
        or both.
      tokenizer: folder or hub name of the tokenizer, where the weights come without one or theirs
        cannot be had. It is cleaned and padded as the weights say.

    Raises:
      UserError: nothing is there, the format or architecture is unknown, a file is damaged, the
        hub cannot be reached, or `tokenizer` has more ids than the model.

    The weights' own tokenizer is loaded when it is first needed: pictures need none.

    The parameters lie on the current mesh (`jax.set_mesh`) as `parallel/rules.py` says, or on the
    first device without one.
    """
    weights = registry.find(paths.typed(source) if isinstance(source, str) else source)
    config = weights.config
    if weights.left:
        log.warning("%s: left, as mmjax has no model for it: %s", source, grouped(weights.left))
    keys_given = {"size": image_size, "patch_size": patch_size, "patches": patches}
    asked = {key: value for key, value in keys_given.items() if value is not None}
    config = _of_images(config, asked, str(source)) if asked else config
    if shapes(config.model) != shapes(weights.config.model):
        params, _ = start_from(weights, config.model, inference_shapes(config.model))
    else:
        params = weights.read(inference_shapes(config.model))
    if frames is not None:
        config = ConfigDict(config.to_dict())
        keys = models.parts.KINDS["video_vit"].keys
        for name, value in (("frames", frames), ("normalise", normalise)):
            find(keys, name).check(f"model.{VIDEO}.{name}", value)
        config.model = models.zoo.of_frames(config.model, frames=frames, normalise=normalise)
        params = {VIDEO if name == IMAGE else name: leaves for name, leaves in params.items()}
    words = weights.tokenizer
    if tokenizer is not None:
        given = _fitting(weights.words(tokenizer), config.model, str(tokenizer))
        words = lambda: given  # noqa: E731
    return Pretrained(
        source=str(source),
        config=config,
        model=models.from_config(config.model),
        params=params,
        words=words,
        training=weights.training,
    )


def _of_images(config: ConfigDict, asked: Mapping[str, int], source: str) -> ConfigDict:
    """The config whose image tower has these keys: size, patch_size, patches."""
    called = {"size": "image_size"}
    spec = config.model.get(IMAGE, {})
    naflex = spec.get("kind") == "naflex"
    for key in asked:
        name = called.get(key, key)
        if naflex and key == "size":
            raise UserError(
                f"{source} reads images in their own shape and has no image_size: give patches, "
                "the most that an image may have."
            )
        if key not in spec:
            kind = f"of the kind {spec.kind!r}" if spec else "not there"
            raise UserError(
                f"{name}={asked[key]} is of no image tower of {source}: its part {IMAGE!r} is "
                f"{kind}."
            )
        keys = models.parts.kind_at(IMAGE, spec).keys
        find(keys, key).check(f"model.{IMAGE}.{key}", asked[key])
    config = ConfigDict(config.to_dict())
    image = config.model[IMAGE]
    if naflex and "patch_size" in asked:  # the grid of its positions stays
        image.size = image.size // image.patch_size * asked["patch_size"]
    image.update(asked)
    models.parts.check_model(config.model)
    return config


def _fitting(tokenizer: Tokenizer, model: ConfigDict, name: str) -> Tokenizer:
    rows = model.get("text", {}).get("vocab_size", 0)
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"the tokenizer {name} has {tokenizer.vocab_size:,} ids, the model embeds {rows:,}: "
            "give that which the weights were trained with."
        )
    return tokenizer
