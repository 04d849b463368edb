"""Zero-shot classification (Radford et al., 2021): class names in prompts make the classifier.

The protocol is OpenAI's and open_clip's: each prompt's embedding is normalised, the mean over
templates normalised again, and the class of the highest cosine is the answer.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.data import Tokenizer, open_source
from mmjax.errors import UserError
from mmjax.evaluation.embed import Embedder, on_mesh
from mmjax.evaluation.ranks import ranks
from mmjax.evaluation.words import class_names, templates_of
from mmjax.models import Multimodal


def prompts(classes: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every template filled with every class name, all of the first class first."""
    return [template.replace("{}", name) for name in classes for template in templates]


def classifier(prompt_embed: np.ndarray) -> np.ndarray:
    """Embeddings of prompts [classes, templates, D], of unit length -> float32 [classes, D]."""
    mean = prompt_embed.astype(np.float64).mean(axis=1)
    return (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)


def accuracy(image_embed: np.ndarray, weights: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """How often the right class is first, or among the first five.

    Args:
      image_embed: float [N, D].
      weights: float [classes, D], from `classifier`.
      label: int [N].

    Returns:
      "top1", "top5" and "mean_per_class_recall" (over the classes that occur) in 0..1, and the
      numbers of "examples" and "classes". Of equal scores the lower class comes first.
    """
    rank = ranks(image_embed, weights, np.stack([np.arange(len(label)), label], axis=1))
    first = rank == 0
    count = np.bincount(label, minlength=len(weights))
    hits = np.bincount(label, weights=first, minlength=len(weights))
    return {
        "top1": float(first.mean()),
        "top5": float((rank < 5).mean()),
        "mean_per_class_recall": float((hits[count > 0] / count[count > 0]).mean()),
        "examples": float(len(label)),
        "classes": float(len(weights)),
    }


class ZeroShot:
    """Evaluator of a source of images with labels. Spec keys beside those of a source:

    classes: a file of one class name a line, in order of label, or "imagenet".
    templates: a file of one prompt a line with {} for the name, "imagenet", or "plain" for "{}".
    """

    def __init__(
        self, name: str, spec: Any, *, config: ConfigDict, model: Multimodal, tokenizer: Tokenizer
    ):
        self._name = name
        self._classes = class_names(spec.get("classes") or "", name)
        self._source = open_source(spec, name)
        self._embedder = Embedder(model, config, tokenizer, spec["batch_size"])
        filled = prompts(self._classes, templates_of(spec.get("templates") or "plain", name))
        # Equal prompts (ImageNet has two classes called "missile") are embedded once, so that
        # their scores tie exactly.
        distinct, prompt_number = np.unique(filled, return_inverse=True)
        self._prompt_number = prompt_number.reshape(len(self._classes), -1)
        self._tokens = self._embedder.tokenize(distinct.tolist())

    def __call__(self, params: Any) -> dict[str, float]:
        """Metrics as `accuracy` names them, the same on every host."""
        with on_mesh(params) as params:
            images = self._embedder.images(params, self._source)
            texts = self._embedder.texts(params, self._tokens)
        self._check(images["label"])
        weights = classifier(texts[self._prompt_number])
        return accuracy(images["image_embed"], weights, images["label"])

    def _check(self, label: np.ndarray) -> None:
        wrong = np.flatnonzero((label < 0) | (label >= len(self._classes)))
        if wrong.size:
            number = int(wrong[0])
            key, found = self._source[number].key, int(label[number])
            problem = "no label" if found < 0 else f"the label {found}"
            raise UserError(
                f"evals.{self._name}: {key} has {problem}, but there are {len(self._classes)} "
                f"classes, 0 to {len(self._classes) - 1}: check the keys label and classes."
            )
