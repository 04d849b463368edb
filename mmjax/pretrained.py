"""A model with its weights, which embeds and compares images, videos, sounds and texts."""

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mmjax import inference
from mmjax.data import Tokenizer
from mmjax.errors import UserError
from mmjax.inputs import AUDIO, IMAGE, TEXT, VIDEO, Images, Inputs, Sounds, Videos
from mmjax.interop import registry
from mmjax.interop.formats import Training
from mmjax.models import Graph
from mmjax.models.page import images as images_of
from mmjax.parallel.mesh import batch_shards

_COMPARED = 16  # videos at once: each has an embedding of every text


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model with its weights.

    Attributes:
      source: where it came from.
      config: its `model` is the architecture; `data.{resize,interpolation}` the preprocessing, and
        other keys of `data` where they are not at their defaults.
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
        image = f", {images_of(model.image)}" if IMAGE in model else ""
        video = f", videos of {model.video.frames} frames" if VIDEO in model else ""
        sound = f", sounds of {model.audio.seconds:g} seconds" if AUDIO in model else ""
        text = f", texts of {model.text.context_length} tokens" if TEXT in model else ""
        shown = f"{image}{video}{sound}{text}"
        return f"Pretrained({name}: {count:,} parameters{shown}; from {self.source})"

    @functools.cached_property
    def tokenizer(self) -> Tokenizer | None:
        """Of the weights; None if they came without one.

        Raises:
          UserError: it cannot be loaded.
        """
        return self.words() if self.words else None

    def embed_images(self, images: Images, batch_size: int = 64) -> np.ndarray:
        """float32 [N, D] of unit length, of pictures as `outputs` takes them."""
        name = f"{self._inputs.part(IMAGE, VIDEO)}/embed"
        return self.outputs((name,), images=images, batch_size=batch_size)[name]

    def embed_texts(self, texts: str | Sequence[str], batch_size: int = 64) -> np.ndarray:
        """float32 [N, D] of unit length, of one text or several."""
        name = f"{self._inputs.part(TEXT)}/embed"
        return self.outputs((name,), texts=texts, batch_size=batch_size)[name]

    def embed_videos(self, videos: Videos, batch_size: int = 16) -> np.ndarray:
        """float32 [N, D] of one video or several, of unit length unless the model normalises frames
        alone.

        Args:
          videos: paths or bytes of files, `mmjax.data.videos.Clip(path, start, end)` in seconds,
            or frames uint8 [T, H, W, 3]. The frames that are seen are those of evaluation.
          batch_size: videos that are decoded and computed at once.

        Raises:
          UserError: the model reads no videos, or one cannot be read.
        """
        return self.embed(self._inputs.part(VIDEO), videos, batch_size)

    def embed_audio(self, sounds: Sounds, batch_size: int = 16) -> np.ndarray:
        """float32 [N, D] of one sound or several: paths or bytes of files (of films, too), a `Clip`
        of one in seconds, or `mmjax.data.sounds.Waveform(samples, rate)`.

        UserError: the model reads no sounds, or one cannot be read.
        """
        return self.embed(self._inputs.part(AUDIO), sounds, batch_size)

    def embed(self, part: str, given: Any, batch_size: int = 64) -> np.ndarray:
        """float32 [N, D] of what a part of the model reads, `batch_size` in memory at once."""
        name, given = f"{part}/embed", self._inputs.several(part, given)
        self._check((name,))
        found = []
        for first in range(0, len(given), batch_size):
            columns = self._inputs.columns(part, given[first : first + batch_size], first)
            found.append(self._computed((name,), columns, batch_size)[name])
        return np.concatenate(found)

    def logits(
        self,
        images: Images | None = None,
        texts: str | Sequence[str] = (),
        *,
        videos: Videos | None = None,
        audio: Sounds | None = None,
    ) -> np.ndarray:
        """float32 [images, texts]: scale · cosine (+ bias); softmax over texts for CLIP, sigmoid of
        each for SigLIP. Instead of images, videos or sounds (`embed_videos`, `embed_audio`). Where
        a text depends on the video that it is compared with (X-CLIP), each video has its own."""
        if sum(given is not None for given in (images, videos, audio)) != 1:
            raise UserError("logits takes images, videos or audio beside texts: give one of them.")
        text = self._inputs.part(TEXT)
        if videos is not None and f"{text}/embed" in self.model.conditioned():
            cosine = self._compared(videos, texts)
        else:
            if images is not None:
                shown = self.embed_images(images)
            elif videos is not None:
                shown = self.embed_videos(videos)
            else:
                assert audio is not None
                shown = self.embed_audio(audio)
            cosine = shown @ self.embed_texts(texts).T
        scalars = tuple(name for name in ("logit/scale", "logit/bias") if name in self.given)
        of_model: Any = self.model.apply({"params": self.params}, {}, scalars)
        scale, bias = of_model["logit/scale"], of_model.get("logit/bias", 0.0)
        return np.asarray(scale * cosine + bias, np.float32)

    def _compared(self, videos: Videos, texts: str | Sequence[str]) -> np.ndarray:
        """Cosines float32 [videos, texts], each text as each video has it."""
        part, text = self._inputs.part(VIDEO), self._inputs.part(TEXT)
        features = self.outputs((f"{text}/features",), texts=texts)[f"{text}/features"]
        given, found = self._inputs.several(part, videos), list[np.ndarray]()
        for first in range(0, len(given), _COMPARED):
            columns = self._inputs.columns(part, given[first : first + _COMPARED], first)
            count = len(columns[part])
            with self._on_mesh():
                found += [
                    inference.cosines(
                        self.model, self.params, inference.cut(some, size, rows),
                        features[:, None], size, (part, text),
                    )["cosine"]
                    for some, size, rows in self._batches(columns, (0, count), _COMPARED)
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
        **parts: Any,
    ) -> dict[str, np.ndarray]:
        """Any outputs of `given` for pictures or texts, e.g. ("image/features",) of a classifier.

        >>> clip.outputs(("video/frames",), video=["a.mp4"])  # doctest: +SKIP

        Args:
          names: outputs with a row for each example.
          images: pictures, uint8 arrays [H, W, 3] or paths of files, of any size; or one of them.
          texts: strings, or one.
          batch_size: examples that are computed at once.
          **parts: PART=what the part of the model reads: images, texts, videos, sounds, one or
            several.

        Raises:
          UserError: the model has no such output or part, there is no tokenizer for the texts, or
            nothing is given.
        """
        self._check(names)
        if images is not None:
            part = self._inputs.part(IMAGE, VIDEO)
            parts[part] = images
            if self._inputs.reads(part) == VIDEO:  # of one frame
                parts[part] = list(self._inputs.squares(images, part)[:, None])
        if texts is not None:
            parts[self._inputs.part(TEXT)] = texts
        columns: inference.Columns = {}
        for part, given in parts.items():
            columns |= self._inputs.columns(part, self._inputs.several(part, given))
        if not columns:
            raise UserError("nothing is given: give images, texts or what another part reads.")
        return self._computed(names, columns, batch_size)

    def _check(self, names: tuple[str, ...]) -> None:
        absent = [name for name in names if name not in self.given]
        if absent:
            why = self.model.lacks(absent[0])
            if absent[0] in self.model.conditioned():
                why += ": compare them by logits"
            raise UserError(f"{self.source} gives no {absent[0]}: {why}.")

    def _computed(
        self, names: tuple[str, ...], columns: inference.Columns, batch_size: int
    ) -> dict[str, np.ndarray]:
        """The outputs of these columns, a batch at a time."""
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

        UserError: there is no image, one is no image, its pixels have no known scale, as floats, or
        the model reads images in their own shape (`columns`).
        """
        found = self._inputs.preprocess(images)
        if found.keys() != {IMAGE}:
            raise UserError(
                f"{self.source} reads images in their own shape, as several columns: take "
                "columns('image', images)."
            )
        return found[IMAGE]

    def columns(self, part: str, given: Any) -> dict[str, np.ndarray]:
        """What a part of the model reads of this, one example or several, as columns of a batch: of
        images uint8 PART [N, S, S, 3] or, of a NaFlex tower, patches with PART_mask and PART_shape.

        UserError: there is no such part, or it cannot read what is given.
        """
        return self._inputs.columns(part, self._inputs.several(part, given))

    def tokenize(self, texts: str | Sequence[str]) -> dict[str, np.ndarray]:
        """ "text" int32 and "text_mask" bool [N, L], at the full context length."""
        return self._inputs.tokenize(texts)

    @functools.cached_property
    def _inputs(self) -> Inputs:
        return Inputs(self.source, self.config, lambda: self.tokenizer)

    def export(self, folder: str | Path, format: str) -> None:
        """Writes it in another format, see `registry.export`."""
        registry.export(
            folder, format, config=self.config, params=self.params, tokenizer=self.tokenizer,
            training=self.training,
        )  # fmt: skip
