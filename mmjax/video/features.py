"""What frames are compared by: the embeddings of a model, or colours where there is none."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import scipy.special

from mmjax.data.images import WHITE, composite
from mmjax.data.videos import Numbers, Video
from mmjax.errors import UserError
from mmjax.inputs import IMAGE, TEXT, VIDEO, Inputs
from mmjax.loading import load
from mmjax.pretrained import Pretrained

SCALE = 1 / 0.07  # of a model that has none: what CLIP starts from
TOGETHER = 32  # frames that a model embeds at once


class Query(NamedTuple):
    """A text as a model sees it.

    Attributes:
      embed: float32 [D], of unit length.
      scale: of cosines with it, before a softmax.
    """

    embed: np.ndarray
    scale: float

    def shares(self, features: np.ndarray) -> np.ndarray:
        """float64 [N], of sum 1: how likely the text is to describe each of features [N, D], a
        softmax as in CLIP's loss."""
        logits = self.scale * (features @ self.embed).astype(np.float64)
        return np.asarray(scipy.special.softmax(logits))


class Features(Protocol):
    """What makes rows of unit length of frames and of a text: their products are cosines."""

    def of_frames(self, video: Video, numbers: Numbers) -> np.ndarray:
        """float32 [n, D] of the frames of ascending numbers, decoded one at a time. BadRecord."""
        ...

    def of_text(self, query: str) -> Query:
        """UserError: it cannot read texts."""
        ...


def open_features(
    model: str | Path | Pretrained | None, tokenizer: str | Path | None, query: str | None
) -> Features:
    """Those of a model that `mmjax.load` takes or gave; of colours where there is None.

    UserError: there is a query and nothing that could read it.
    """
    if model is None:
        if query is not None:
            raise UserError(
                "a query needs a model of images and texts: give --model=SOURCE, as "
                "openai/clip-vit-base-patch32."
            )
        return Colours()
    found = OfModel(model, tokenizer)
    if query is not None and not query.strip():
        raise UserError("the query is empty: say what to look for, or leave it out.")
    if query is not None and f"{found.text}/embed" not in found.model.given:
        raise UserError(
            f"{found.model.source} embeds no texts by themselves: a query needs a model that does."
        )
    return found


class Colours:
    """The root of the histogram of a frame over 16 hues, 4 saturations and 4 values.

    It has unit length, and a product of two is the Bhattacharyya coefficient of the histograms. It
    needs no weights, and does not know what is shown.
    """

    def of_frames(self, video: Video, numbers: Numbers) -> np.ndarray:
        shrink = max(1.0, max(video.shape) / 256)
        rows = [_histogram(frame) for frame in video.each(numbers, shrink)]
        return np.stack(rows)

    def of_text(self, query: str) -> Query:
        raise UserError(f"colours cannot be compared with {query!r}: give a model.")


def _histogram(frame: np.ndarray) -> np.ndarray:
    hsv = cv2.cvtColor(composite(frame, WHITE), cv2.COLOR_RGB2HSV)
    counts = cv2.calcHist([hsv], [0, 1, 2], None, [16, 4, 4], [0, 180, 0, 256, 0, 256])
    shares = counts.ravel() / counts.sum()
    return np.asarray(np.sqrt(shares), np.float32)


class OfModel:
    """The image tower of a model; that of videos sees a frame as a video of one."""

    def __init__(self, model: str | Path | Pretrained, tokenizer: str | Path | None):
        if not isinstance(model, Pretrained):
            model = load(model, tokenizer=tokenizer)
        self.model = model
        self._inputs = Inputs(model.source, model.config, lambda: self.model.tokenizer)
        self._part = self._inputs.part(IMAGE, VIDEO)
        wanted = (f"{self._part}/embed", f"{self._part}/features")
        names = [name for name in wanted if name in self.model.given]
        if not names:
            raise UserError(
                f"{self.model.source} embeds no frames: it gives {', '.join(self.model.given)}."
            )
        self.text = self._inputs.part(TEXT)
        self._output = names[0]

    def of_frames(self, video: Video, numbers: Numbers) -> np.ndarray:
        found, waiting = list[np.ndarray](), list[np.ndarray]()
        for frame in video.each(numbers):
            waiting.append(self._inputs.reduced(frame, self._part))
            if len(waiting) == TOGETHER:
                found.append(self._embed(waiting))
                waiting = []
        if waiting:
            found.append(self._embed(waiting))
        return np.concatenate(found)

    def of_text(self, query: str) -> Query:
        embed = _unit_length(self.model.embed_texts(query))[0]
        if "logit/scale" not in self.model.given:
            return Query(embed, SCALE)
        variables = {"params": self.model.params}
        found: Any = self.model.model.apply(variables, {}, ("logit/scale",))
        return Query(embed, float(found["logit/scale"]))

    def _embed(self, images: list[np.ndarray]) -> np.ndarray:
        outputs = self.model.outputs((self._output,), images=images, batch_size=TOGETHER)
        return _unit_length(outputs[self._output])


def _unit_length(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
