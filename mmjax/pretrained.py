"""`mmjax.load`: weights from anywhere as a model that embeds pictures and texts.

clip = mmjax.load("openai/clip-vit-base-patch32")
clip.logits(images=[image], texts=["a cat", "a dog"])
"""

import contextlib
import dataclasses
import functools
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from mmjax import inference, models, paths
from mmjax.data import BadRecord, Record, Tokenizer, eval_transform
from mmjax.data.images import open_image
from mmjax.data.modalities.video import Frames
from mmjax.data.videos import Clip
from mmjax.errors import UserError
from mmjax.interop import registry, run
from mmjax.interop.formats import Training
from mmjax.interop.start import grouped, start_from
from mmjax.models import Graph
from mmjax.parallel.mesh import batch_shards
from mmjax.runs.workdir import inference_shapes

Picture = Image.Image | np.ndarray | str | Path  # an array is uint8 [H, W, 3]; a path, of a file
Images = Picture | Sequence[Picture]
Film = str | Path | bytes | Clip | np.ndarray  # an array is frames, uint8 [T, H, W, 3]
Videos = Film | Sequence[Film]
log = logging.getLogger("mmjax.interop")


def export(workdir: str | Path, output: str | Path, format: str = "huggingface") -> None:
    """Writes the weights of a run for other libraries.

    Args:
      workdir: of the run, whose newest checkpoint is written, or WORKDIR/checkpoints/STEP.
      output: the folder to write; an earlier export there is replaced.
      format: huggingface, open_clip, openai or big_vision.

    Raises:
      UserError: there is no run or checkpoint, or the format has no place for the model.
    """
    workdir = paths.typed(str(workdir))
    if not run.detect(Path(workdir)):
        raise UserError(f"{workdir} is not a workdir of a run, nor a checkpoint of one.")
    load(workdir).export(output, format)


def convert(
    source: str | Path, target: str | Path, format: str, *, tokenizer: str | Path | None = None
) -> None:
    """Writes weights of any format in another.

    Args:
      source: whatever `load` takes.
      target: the folder to write; an earlier export there is replaced.
      format: huggingface, open_clip, openai or big_vision.
      tokenizer: as for `load`.

    Raises:
      UserError: as of `load`, or the format has no place for the model.
    """
    load(source, tokenizer=tokenizer).export(target, format)


def load(
    source: str | Path, *, image_size: int | None = None, tokenizer: str | Path | None = None
) -> "Pretrained":
    """A model with its weights, tokenizer and preprocessing.

    Args:
      source: a folder or file in any format of `registry.FORMATS`, a workdir of mmjax or one of its
        checkpoints (WORKDIR/checkpoints/STEP), or a name on the Hugging Face hub.
      image_size: side of the pictures, if another than the weights were made for: the position
        embeddings are resized.
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
    if image_size is not None and image_size != config.model.image.size:
        config = ConfigDict(config.to_dict())
        config.model.image.size = image_size
        empty = inference_shapes(config.model)
        params, _ = start_from(weights, config.model, empty)
    else:
        params = weights.read(inference_shapes(config.model))
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


def _picture(given: np.ndarray | str | Path) -> Image.Image:
    """The image of an array, or in a file. BadRecord, OSError or TypeError: there is none."""
    if not isinstance(given, str | Path):
        return Image.fromarray(given)
    return open_image(Path(paths.typed(str(given))).read_bytes())


def _fitting(tokenizer: Tokenizer, model: ConfigDict, name: str) -> Tokenizer:
    rows = model.get("text", {}).get("vocab_size", 0)
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"the tokenizer {name} has {tokenizer.vocab_size:,} ids, the model embeds {rows:,}: "
            "give that which the weights were trained with."
        )
    return tokenizer


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model with its weights.

    Attributes:
      source: where it came from.
      config: its `model` is the architecture; `data.{resize,interpolation}` the preprocessing.
      model: the Linen module, for `model.apply({"params": params}, batch, outputs)`.
      params: its parameters.
      words: loads the tokenizer; None if the weights came without one.
      training: of an mmjax run, else None.
    """

    source: str
    config: ConfigDict
    model: Graph
    params: Any
    words: Callable[[], Tokenizer] | None
    training: Training | None = None

    def __repr__(self) -> str:
        """In a line: the architecture and where it came from."""
        count = sum(math.prod(x.shape) for x in jax.tree.leaves(self.params))
        model = self.config.model
        name = model.get("name", "") or "unnamed"
        image = f", images of {model.image.size} pixels" if "image" in model else ""
        for part in (
            model[name] for name, (kind, _) in self.model.inputs().items() if kind == "video"
        ):
            image = f", videos of {part.frames} frames of {part.size} pixels"
        text = f", texts of {model.text.context_length} tokens" if "text" in model else ""
        return f"Pretrained({name}: {count:,} parameters{image}{text}; from {self.source})"

    @functools.cached_property
    def tokenizer(self) -> Tokenizer | None:
        """Of the weights; None if they came without one.

        Raises:
          UserError: it cannot be loaded.
        """
        return self.words() if self.words else None

    def embed_images(self, images: Images, batch_size: int = 64) -> np.ndarray:
        """float32 [N, D] of unit length, of pictures as `outputs` takes them."""
        return self.outputs(("image/embed",), images=images, batch_size=batch_size)["image/embed"]

    def embed_texts(self, texts: str | Sequence[str], batch_size: int = 64) -> np.ndarray:
        """float32 [N, D] of unit length, of one text or several."""
        return self.outputs(("text/embed",), texts=texts, batch_size=batch_size)["text/embed"]

    def logits(
        self,
        images: Images | None = None,
        texts: str | Sequence[str] = (),
        *,
        videos: Videos | None = None,
    ) -> np.ndarray:
        """float32 [images, texts] or [videos, texts]: scale · cosine (+ bias); softmax over texts
        for CLIP, sigmoid of each for SigLIP. Where a text's embedding depends on the video
        (X-CLIP), each is compared with its own."""
        scalars = tuple(name for name in ("logit/scale", "logit/bias") if name in self.given)
        of_model: Any = self.model.apply({"params": self.params}, {}, scalars)
        if images is not None and videos is None:
            part, columns = "image", {"image": self.preprocess(images)}
        elif videos is not None and images is None:
            part, columns = self.video_part, self.preprocess_videos(videos)
        else:
            raise UserError("logits compares texts with images or with videos: give one of them.")
        if "text/embed" in self.model.conditioned():
            cosine = self._cosines(part, columns, texts)
        else:
            embed = self._run((f"{part}/embed",), columns, 64)[f"{part}/embed"]
            cosine = embed @ self.embed_texts(texts).T
        scale, bias = of_model["logit/scale"], of_model.get("logit/bias", 0.0)
        return np.asarray(scale * cosine + bias, np.float32)

    def _cosines(
        self, part: str, columns: inference.Columns, texts: str | Sequence[str]
    ) -> np.ndarray:
        """float32 [N, K], each text as the example of each row has it."""
        features = self.outputs(("text/features",), texts=texts)["text/features"][:, None]
        count, batch_size = len(columns[part]), 16  # each has a row for every text
        full = count // batch_size * batch_size
        with self._on_mesh():
            found = [
                inference.cosines(
                    self.model, self.params, inference.cut(some, size, rows), features, size,
                    (part, "text"),
                )["cosine"]
                for some, size, rows in self._batches(columns, (0, full, count), batch_size)
            ]  # fmt: skip
        return np.concatenate(found)

    @property
    def given(self) -> tuple[str, ...]:
        """Names of all outputs that the model has."""
        return self.model.outputs()

    def outputs(
        self,
        names: tuple[str, ...],
        *,
        images: Images | None = None,
        texts: str | Sequence[str] | None = None,
        batch_size: int = 64,
    ) -> dict[str, np.ndarray]:
        """Any outputs of `given` for pictures or texts, e.g. ("image/features",) of a classifier.

        Args:
          names: outputs with a row for each example.
          images: pictures, uint8 arrays [H, W, 3] or paths of files, of any size; or one of them.
          texts: strings, or one.
          batch_size: examples that are computed at once.

        Raises:
          UserError: the model has no such output, there is no tokenizer for the texts, or nothing
            is given.
        """
        absent = [name for name in names if name not in self.given]
        if absent:
            why = self.model.lacks(absent[0])
            if absent[0] in self.model.conditioned():
                why += ": compare them by logits"
            raise UserError(f"{self.source} gives no {absent[0]}: {why}.")
        columns = {} if images is None else {"image": self.preprocess(images)}
        if texts is not None:
            columns |= self.tokenize(texts)
        return self._run(names, columns, batch_size)

    def _run(
        self, names: tuple[str, ...], columns: inference.Columns, batch_size: int
    ) -> dict[str, np.ndarray]:
        count = len(next(iter(columns.values())))
        full = count // batch_size * batch_size
        with self._on_mesh():
            found = [
                inference.run(self.model, self.params, inference.cut(some, size, rows), names, size)
                for some, size, rows in self._batches(columns, (0, full, count), batch_size)
            ]
        return {name: np.concatenate([part[name] for part in found]) for name in names}

    def _batches(self, columns: inference.Columns, ends: tuple[int, ...], batch_size: int) -> Any:
        """The full batches and the rest, of which the last has a power of two rows for each part of
        the mesh: few shapes to compile for."""
        for start, end in itertools.pairwise(ends):
            if start < end:
                some = {name: x[start:end] for name, x in columns.items()}
                most = min(end - start, batch_size)
                rows = 1 << (-(-most // batch_shards()) - 1).bit_length()
                yield some, *inference.global_batch(rows * batch_shards())

    def _on_mesh(self) -> Any:
        """Where the parameters lie: on the current mesh, or that which `load` made."""
        if not jax.sharding.get_mesh().empty:
            return contextlib.nullcontext()
        return jax.set_mesh(jax.tree.leaves(self.params)[0].sharding.mesh)

    def preprocess(self, images: Images) -> np.ndarray:
        """uint8 [N, S, S, 3] as the weights were made for; the model itself normalises.

        UserError: there is no image, one is no image, or its pixels have no known scale, as floats.
        """
        if isinstance(images, str | Path | Image.Image) or (
            isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[-1] in (3, 4)
        ):
            images = (images,)  # one alone
        if len(images) == 0:
            raise UserError("images is empty: give at least one image.")
        fit = {key: self.config.data[key] for key in ("resize", "interpolation")}
        rows = []
        for number, x in enumerate(images):
            try:
                image = x if isinstance(x, Image.Image) else _picture(x)
                rows.append(eval_transform(image, self.config.model.image.size, **fit))
            except BadRecord as error:
                raise UserError(f"images[{number}] {error}.") from error
            except OSError as error:
                raise UserError(
                    f"images[{number}]: {x} cannot be read: {error.strerror}."
                ) from error
            except (AttributeError, TypeError) as error:  # of fromarray
                array = isinstance(x, np.ndarray)
                what = f"{x.dtype} {list(x.shape)}" if array else f"of type {type(x).__name__}"
                raise UserError(
                    f"images[{number}] is {what}: give uint8 [H, W, 3], an image of Pillow or the "
                    "path of a file."
                ) from error
        return np.stack(rows)

    @property
    def video_part(self) -> str:
        """The part that sees videos; UserError: there is none."""
        for name, (modality, _) in self.model.inputs().items():
            if modality == "video":
                return name
        raise UserError(f"{self.source} has no part that sees videos.")

    def preprocess_videos(self, videos: Videos) -> dict[str, np.ndarray]:
        """The columns PART uint8 [N, T, S, S, 3] and PART_mask bool [N, T] of `video_part`: frames
        as `config.data.sampling` of a run says, else the middle ones of T equal segments.

        UserError: there is no video, or one cannot be read.
        """
        alone = isinstance(videos, str | Path | bytes | Clip)
        alone = alone or (isinstance(videos, np.ndarray) and videos.ndim == 4)
        given: Any = (videos,) if alone else videos
        if len(given) == 0:
            raise UserError("videos is empty: give at least one video.")
        part, data = self.video_part, self.config.data
        module = self.model.module(part)
        fit = {key: data[key] for key in ("resize", "interpolation")}
        fit |= {key: data[key] for key in ("sampling", "fps") if key in data}
        modality = Frames(part, module.size, module.frames, **fit)
        rows = []
        for number, video in enumerate(given):
            if isinstance(video, str | Path):
                video = paths.typed(str(video))
            elif not isinstance(video, bytes | Clip | np.ndarray):
                raise UserError(
                    f"videos[{number}] is of type {type(video).__name__}: give the path or the "
                    "bytes of a file, a Clip, or frames as uint8 [T, H, W, 3]."
                )
            try:
                rows.append(modality.read(Record(f"videos[{number}]", {"video": video}), None))
            except BadRecord as error:
                raise UserError(f"{error}.") from error
        return dict(modality.batch(rows))

    def tokenize(self, texts: str | Sequence[str]) -> dict[str, np.ndarray]:
        """ "text" int32 and "text_mask" bool [N, L], at the full context length."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise UserError("texts is empty: give at least one text.")
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(
                    f"texts[{number}] is of type {type(text).__name__}: give a string or a list of "
                    "strings."
                )
        if self.tokenizer is None:
            raise UserError(
                f"{self.source} holds no tokenizer: copy its files beside the weights, or name its "
                "folder, load(…, tokenizer=…)."
            )
        ids, mask = self.tokenizer.encode(texts, self.config.model.text.context_length)
        return {"text": ids, "text_mask": mask}

    def export(self, folder: str | Path, format: str) -> None:
        """Writes it in another format, see `registry.export`."""
        registry.export(
            folder, format, config=self.config, params=self.params, tokenizer=self.tokenizer,
            training=self.training,
        )  # fmt: skip
