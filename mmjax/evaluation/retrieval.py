"""Retrieval of texts by images or videos, and back: R@K, median and mean rank.

The protocol is open_clip's and CLIP_benchmark's: image → text is a hit if any of the image's
captions is in the top k; text → image asks for the one image the caption was written for. Of equal
scores the lower index comes first. Of videos it is what MSR-VTT, MSVD and VATEX with all captions
are measured by; MSR-VTT 1k-A has one caption a video, and paragraphs are one caption, too.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data import BadRecord, Source
from mmjax.errors import UserError
from mmjax.evaluation.bootstrap import estimates
from mmjax.evaluation.embed import SCALE, Embedder
from mmjax.evaluation.parts import pair
from mmjax.evaluation.ranks import dual_softmax_ranks, ranks
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
    metrics = _both_ways(ranks, image_embed, text_embed, pairs, names)
    sizes = len(image_embed), len(text_embed)
    return metrics | {f"{name}s": float(size) for name, size in zip(names, sizes, strict=True)}


def dual_softmax(
    image_embed: np.ndarray,
    text_embed: np.ndarray,
    pairs: np.ndarray,
    scale: float,
    names: tuple[str, str] = PAIR,
) -> dict[str, float]:
    """The metrics of `retrieval_metrics` as "dsl/image_to_text/R@1" …, by `dual_softmax_ranks`:
    they use the whole test set for each query, and are no results of one query alone.

    `scale`: of the model's logits. A text of no image is no query, and has no part in the softmax.
    """
    by_scores = functools.partial(dual_softmax_ranks, scale=scale)
    found = _both_ways(by_scores, image_embed, text_embed, pairs, names)
    return {f"dsl/{name}": value for name, value in found.items()}


def _both_ways(
    ranked: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    image_embed: np.ndarray,
    text_embed: np.ndarray,
    pairs: np.ndarray,
    names: tuple[str, str],
) -> dict[str, float]:
    """Metrics of both directions by name, from (query, candidates, pairs) → ranks."""
    asked, first, query = np.unique(pairs[:, 1], return_index=True, return_inverse=True)
    forward, backward = "_to_".join(names), "_to_".join(reversed(names))
    found = {
        forward: ranked(image_embed, text_embed, pairs),
        backward: ranked(text_embed[asked], image_embed, np.stack([query, pairs[:, 0]], axis=1)),
    }
    cluster = {forward: np.arange(len(image_embed)), backward: pairs[first, 0]}
    return {
        f"{direction}/{name}": value
        for direction, rank in found.items()
        for name, value in rank_metrics(rank, cluster[direction], len(image_embed)).items()
    }


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
      of: The part that embeds the records, and the one that embeds their captions; (): those
        that the model has.
      candidates: '' each caption is a text of its own (COCO); captions: the distinct ones; a file
        of one text a line: these, and captions that are not among them.
      dsl: Also by dual softmax, under names that begin with dsl: scores are weighted by a softmax
        over all queries of the test set.
    """

    of: tuple[str, ...] = ()
    candidates: str = ""
    dsl: bool = False


class Retrieval:
    """Retrieval of texts by images (or what else a part reads) and of images by texts.

    With distinct texts as candidates, text → image asks for any image of that caption.
    """

    def __init__(self, name: str, spec: Any, subject: Subject):
        self._of, self._dsl = pair(subject, spec.of, name), spec.dsl
        if spec.dsl and SCALE not in subject.model.outputs():
            raise UserError(
                f"evals.{name}.dsl needs {SCALE}, which this model does not give: set dsl=False."
            )
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
        one, pairs = np.ones((1, 1)), np.zeros((1, 2), int)
        dsl = dual_softmax(one, one, pairs, 1.0, self._of) if self._dsl else {}
        return (*retrieval_metrics(one, one, pairs, self._of), *dsl)

    def __call__(self, params: Any) -> dict[str, float]:
        """Metrics as `retrieval_metrics` names them, the same on every host."""
        with on_mesh(params) as params:
            texts = self._embedder.texts(params, self._tokens, self._of[1])
            images, texts, skipped = self._embedder.beside(params, self._source, self._of, texts)
            scale = self._embedder.scale(params) if self._dsl else 1.0
        # The captions of an image that was skipped stay as candidates.
        pairs = self._pairs[np.isin(self._pairs[:, 0], images["index"])]
        pairs[:, 0] = np.searchsorted(images["index"], pairs[:, 0])
        embed = images[f"{self._of[0]}/embed"]
        metrics = retrieval_metrics(embed, texts, pairs, self._of)
        if self._dsl:
            metrics |= dual_softmax(embed, texts, pairs, scale, self._of)
        return metrics | skipped


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
