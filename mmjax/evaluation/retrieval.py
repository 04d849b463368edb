"""Retrieval of texts by images or videos, and back: R@K, median and mean rank.

The protocol is open_clip's and CLIP_benchmark's: image → text is a hit if any of the image's
captions is in the top k; text → image asks for the one image the caption was written for. Of equal
scores the lower index comes first.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data import BadRecord, Source
from mmjax.errors import UserError
from mmjax.evaluation.bootstrap import estimates
from mmjax.evaluation.embed import Embedder
from mmjax.evaluation.parts import pair
from mmjax.evaluation.ranks import ranks
from mmjax.evaluation.skips import open_test
from mmjax.evaluation.spec import Evaluation, Subject
from mmjax.evaluation.words import read_lines
from mmjax.inference import on_mesh
from mmjax.models.towers import PAIR

TOP = (1, 5, 10)


def retrieval_metrics(
    image_embed: np.ndarray,
    text_embed: np.ndarray,
    pairs: np.ndarray,
    names: tuple[str, str] = PAIR,
) -> dict[str, float]:
    """Metrics of both directions.

    Args:
      image_embed: float [N, D] of unit length.
      text_embed: float [M, D] of unit length. A text of no image is a distractor: a candidate of
        image → text, but no query of text → image.
      pairs: int [P, 2] of (image, text) that belong together; each image has at least one text.
      names: what the two sides are called in the names of the metrics.

    Returns:
      "image_to_text/R@1" … as shares in 0..1, "…/median_rank" and "…/mean_rank" counted from 1
      (the median of an even number is rounded down), and the same for "text_to_image"; and the
      numbers of "images" and "texts". The bootstrap intervals of R@K and mean rank draw images,
      each with its captions.
    """
    asked, first, query = np.unique(pairs[:, 1], return_index=True, return_inverse=True)
    forward, backward = "_to_".join(names), "_to_".join(reversed(names))
    found = {
        forward: ranks(image_embed, text_embed, pairs),
        backward: ranks(text_embed[asked], image_embed, np.stack([query, pairs[:, 0]], axis=1)),
    }
    images = len(image_embed)
    cluster = {forward: np.arange(images), backward: pairs[first, 0]}
    metrics = {
        f"{direction}/{name}": value
        for direction, rank in found.items()
        for name, value in rank_metrics(rank, cluster[direction], images).items()
    }
    return metrics | {f"{names[0]}s": float(images), f"{names[1]}s": float(len(text_embed))}


def rank_metrics(rank: np.ndarray, cluster: np.ndarray, clusters: int) -> dict[str, float]:
    """R@K, median and mean of 0-based ranks [N]; the last two are counted from 1.

    `cluster` int [N] says which queries the bootstrap draws together, of 0 … clusters - 1.
    """

    def metrics(counts: np.ndarray) -> dict[str, float]:
        weights = counts[cluster]
        hits = {f"R@{k}": weights @ (rank < k) / weights.sum() for k in TOP}
        return hits | {"mean_rank": weights @ rank / weights.sum() + 1}

    median = float(np.floor(np.median(rank)) + 1)
    return {**estimates(metrics, clusters), "median_rank": median}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalKeys(Evaluation):
    """The keys of the kind "retrieval".

    Attributes:
      of: The part that embeds the records, and the one that embeds their captions; None is those
        that the model has.
      candidates: '' each caption is a text of its own (COCO); captions: the distinct ones; a file
        of one text a line: these, and captions that are not among them.
    """

    of: tuple[str, str] | None = None
    candidates: str = ""


class Retrieval:
    """Retrieval of texts by images (or what else a part reads) and of images by texts.

    With distinct texts as candidates, text → image asks for any image of that caption.
    """

    def __init__(self, name: str, spec: Any, subject: Subject):
        self._of = pair(subject, spec.of, name)
        self._source = open_test(spec, name)
        self._embedder = Embedder.of(spec, subject)
        captions = captions_of(self._source)
        if spec.candidates:
            captions_alone = spec.candidates == "captions"
            first = () if captions_alone else read_lines(Path(spec.candidates), name)
            texts, self._pairs = distinct_texts(captions, first)
        else:
            texts = [caption for group in captions for caption in group]
            owners = np.repeat(np.arange(len(captions)), [len(group) for group in captions])
            self._pairs = np.stack([owners, np.arange(len(texts))], axis=1)
        self._tokens = self._embedder.tokenize(texts, self._of[1])

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics."""
        one = np.ones((1, 1))
        return tuple(retrieval_metrics(one, one, np.zeros((1, 2), int), self._of))

    def __call__(self, params: Any) -> dict[str, float]:
        """Metrics as `retrieval_metrics` names them, the same on every host."""
        with on_mesh(params) as params:
            images, skipped = self._embedder.records(params, self._source, self._of[0])
            texts = self._embedder.texts(params, self._tokens, self._of[1])
        # The captions of an image that was skipped stay as candidates.
        pairs = self._pairs[np.isin(self._pairs[:, 0], images["index"])]
        pairs[:, 0] = np.searchsorted(images["index"], pairs[:, 0])
        embed = images[f"{self._of[0]}/embed"]
        return retrieval_metrics(embed, texts, pairs, self._of) | skipped


def captions_of(source: Source) -> list[tuple[str, ...]]:
    """The captions of each record; UserError names a record without one."""
    captions = []
    for number in range(len(source)):
        try:
            captions.append(source.captions(number))
        except BadRecord as error:
            raise UserError(f"{source.name}: {error}; repair or remove it.") from error
        if not captions[-1]:
            raise UserError(
                f"{source.name}: {source[number].key} has no caption: retrieval needs one for each "
                "record."
            )
    return captions


def distinct_texts(
    captions: list[tuple[str, ...]], first: tuple[str, ...] | list[str]
) -> tuple[list[str], np.ndarray]:
    """Each text once, those of `first` first, and int [P, 2] of (record, text) that match."""
    number = {text: i for i, text in enumerate(dict.fromkeys(first))}
    pairs = [
        (image, number.setdefault(caption, len(number)))
        for image, group in enumerate(captions)
        for caption in dict.fromkeys(group)
    ]
    return list(number), np.array(pairs)
