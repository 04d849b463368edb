"""What a program gives a model, as columns of a batch: images, texts, videos, sounds, in memory or
in files. `mmjax.load` has them as methods of its model."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from mmjax import models, paths
from mmjax.data import Augment, BadRecord, Tokenizer, modalities
from mmjax.data.given import alone, read_given
from mmjax.data.images import open_image
from mmjax.data.keys import KEYS as DATA
from mmjax.data.sounds import Waveform
from mmjax.data.videos import Clip
from mmjax.data.workers import Batch
from mmjax.errors import UserError
from mmjax.schema import entry, keys_of

Picture = Image.Image | np.ndarray | str | Path  # an array is uint8 [H, W, 3]; a path, of a file
Images = Picture | Sequence[Picture]
Stored = str | Path | bytes | Clip | np.ndarray  # a video; an array is uint8 [T, H, W, 3]
Videos = Stored | Sequence[Stored]
Sound = str | Path | bytes | Clip | Waveform
Sounds = Sound | Sequence[Sound]
IMAGE, VIDEO, AUDIO, TEXT = "image", "video", "audio", "text"


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Reads what the parts of a model are given, as in evaluation.

    Attributes:
      source: of the model, for messages.
      config: its `model` and its `data`, of which weights may know `resize` and `interpolation`
        alone.
      tokenizer: loads it; None: there is none.
    """

    source: str
    config: ConfigDict
    tokenizer: Callable[[], Tokenizer | None]

    def part(self, *media: str) -> str:
        """The part that reads the first of these media that one does, or the medium's own name."""
        reads = {name: modalities.medium(kind) for name, (kind, _) in self._inputs.items()}
        for medium in media:
            found = [name for name, kind in reads.items() if kind == medium]
            if len(found) > 1 and medium not in found:
                raise UserError(
                    f"the parts {', '.join(found)} of {self.source} read {medium}: say which, as "
                    f"in embed({found[0]!r}, …)."
                )
            if found:
                return medium if medium in found else found[0]
        return media[0]

    def reads(self, part: str) -> str:
        """The medium that a part reads."""
        if part not in self._inputs:
            frames = ", or load(…, frames=8) for videos" if part == VIDEO else ""
            raise UserError(
                f"{self.source} has no part {part!r} that reads examples: take one of "
                f"{', '.join(self._inputs)}{frames}."
            )
        return modalities.medium(self._inputs[part][0])

    def several(self, part: str, given: Any) -> Any:
        """What is given for a part, one alone as a list of it."""
        medium = self.reads(part)
        one = _one_image(given) if medium == IMAGE else alone(given, 4 if medium == VIDEO else 0)
        if not one and len(given) == 0:
            raise UserError(f"{part} is empty: give at least one.")
        return [given] if one else given

    def columns(self, part: str, given: Any, first: int = 0) -> Batch:
        """What a part reads of these, of which the first has this number in messages."""
        medium = self.reads(part)
        if medium == IMAGE:
            return self.preprocess(given, part, first)
        if medium == TEXT:
            return self.tokenize(given, part)
        return read_given(given, self._modalities[part], medium, part, first)

    @functools.cached_property
    def _inputs(self) -> dict[str, tuple[str, Any]]:
        return models.inputs(self.config.model)

    @functools.cached_property
    def _modalities(self) -> dict[str, modalities.Modality]:
        """Part → what it reads, but of texts, whose tokenizer is loaded when it is needed."""
        shown = {part: found for part, found in self._inputs.items() if found[0] != TEXT}
        return modalities.build(shown, data=self._data)

    @functools.cached_property
    def _data(self) -> ConfigDict:
        return with_defaults(self.config.data)

    def squares(self, images: Images, part: str) -> np.ndarray:
        """uint8 [N, S, S, 3]: images as frames of the videos that a part reads."""
        spec = self.config.model[part]
        return self._preprocessed(images, modalities.Image.of(part, spec, self._data, None))[part]

    def reduced(self, image: np.ndarray, part: str) -> np.ndarray:
        """An image no larger than the square that a part reads of it, so that many fit in memory;
        the image itself for a part that reads images in their own shape."""
        if self.reads(part) == VIDEO:
            return self.squares(image, part)[0]
        columns = self.preprocess(image, part)
        return columns[part][0] if columns.keys() == {part} else image

    def preprocess(self, images: Images, part: str = IMAGE, first: int = 0) -> Batch:
        """The columns of images as the weights were made for; the model itself normalises.

        `part`: that reads them; `first`: the number of the first image in messages.

        UserError: there is no image, one is no image, or its pixels have no known scale, as floats.
        """
        return self._preprocessed(images, self._modalities[part], first)

    def _preprocessed(self, images: Images, modality: Any, first: int = 0) -> Batch:
        given: Any = images
        several = [given] if _one_image(given) else list(given)
        if not several:
            raise UserError("images is empty: give at least one image.")
        rows = []
        for number, x in enumerate(several, start=first):
            try:
                image = x if isinstance(x, Image.Image) else _picture(x)
                rows.append(modality.shown(image))
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
        columns: Batch = modality.batch(rows)
        return columns

    def tokenize(self, texts: str | Sequence[str], part: str = TEXT) -> dict[str, np.ndarray]:
        """PART int32 and PART_mask bool [N, L], at the full context length of the part."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise UserError("texts is empty: give at least one text.")
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(
                    f"texts[{number}] is of type {type(text).__name__}: give a string or a list of "
                    "strings."
                )
        tokenizer = self.tokenizer()
        if tokenizer is None:
            raise UserError(
                f"{self.source} holds no tokenizer: copy its files beside the weights, or name its "
                "folder, load(…, tokenizer=…)."
            )
        ids, mask = tokenizer.encode(texts, self.config.model[part].context_length)
        return {part: ids, f"{part}_mask": mask}


def with_defaults(data: ConfigDict) -> ConfigDict:
    """A `config.data` with the keys that weights say nothing of at their defaults."""
    return ConfigDict({**entry(DATA), "augment": entry(keys_of(Augment)), **data})


def _one_image(given: Any) -> bool:
    """Whether this is one image alone."""
    return isinstance(given, str | Path | Image.Image) or (
        isinstance(given, np.ndarray) and given.ndim == 3 and given.shape[-1] in (3, 4)
    )


def _picture(given: np.ndarray | str | Path) -> Image.Image:
    """The image of an array, or in a file. BadRecord, OSError or TypeError: there is none."""
    if not isinstance(given, str | Path):
        return Image.fromarray(given)
    return open_image(Path(paths.typed(str(given))).read_bytes())
