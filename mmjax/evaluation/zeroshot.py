"""Zero-shot classification (Radford et al., 2021): class names in prompts make the classifier.

The protocol is OpenAI's and open_clip's: each prompt's embedding is normalised, the mean over
templates normalised again, and the class of the highest cosine is the answer.
"""

import dataclasses
import functools
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np

from mmjax.data import Source
from mmjax.data.modalities import Views
from mmjax.errors import UserError
from mmjax.evaluation.accuracy import Labels, accuracy, accuracy_names
from mmjax.evaluation.classes import Classes, named
from mmjax.evaluation.embed import Embedder
from mmjax.evaluation.imagenet_source import CLASSES, open_imagenet, open_real
from mmjax.evaluation.parts import embedding, pair
from mmjax.evaluation.skips import check_complete, open_test
from mmjax.evaluation.spec import Evaluation, Subject, source_of
from mmjax.evaluation.views import view_accuracy, views_of
from mmjax.evaluation.words import big_vision_words, class_words, read_lines, templates_of, wnids
from mmjax.inference import on_mesh
from mmjax.values import COUNT


def prompts(classes: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every template filled with every class name, all of the first class first.

    >>> from mmjax.evaluation import prompts
    >>> prompts(["cat", "dog"], ["a photo of a {}.", "a drawing of a {}."])[:2]
    ['a photo of a cat.', 'a drawing of a cat.']
    """
    return [template.replace("{}", name) for name in classes for template in templates]


def classifier(prompt_embed: np.ndarray) -> np.ndarray:
    """Embeddings of prompts [classes, templates, D], of unit length -> float32 [classes, D]."""
    mean = prompt_embed.astype(np.float64).mean(axis=1)
    return (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfWords(Evaluation):
    """The keys of evaluators whose classifier is made of words.

    Attributes:
      of: The part that embeds the records, and the one that embeds the prompts; (): those that
        the model has.
      classes: A file of one class a line in order of label, NAME or ID<tab>NAME, or imagenet.
        Classes that have names in the data, as folders have, are matched by NAME or ID.
      templates: A file of prompts with {} for the name, imagenet (80 of them) or plain (the name
        alone).
      protocol: Words as they are, or big_vision: lower case and no punctuation.
      subset: The classes that records and classifier are restricted to: a file of one a line (its
        name, label or WordNet id), present (those that occur) or all.
    """

    of: tuple[str, ...] = ()
    classes: str = ""
    templates: str = "plain"
    protocol: Literal["open_clip", "big_vision"] = "open_clip"
    subset: str = "all"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(OfWords):
    """The keys of the kind "classification".

    Attributes:
      views: Of a video: how many sets of frames are classified, each over the whole video.
      crops: Of a video: squares of each frame, 1 (the centre) or 3 (left, centre, right).
      aggregate: What is averaged over views and crops: logits, or their softmax (X-CLIP).
    """

    views: Annotated[int, COUNT] = 1
    crops: Literal[1, 3] = 1
    aggregate: Literal["logits", "softmax"] = "logits"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageNet(OfWords):
    """The keys of the kind "imagenet".

    Attributes:
      subset: As of classification; '' is all, but present for -A and -R.
      real: The file real.json of ReaL labels: any of an image's labels is right, and images without
        one do not count.
    """

    classes: str = "imagenet"
    templates: str = "imagenet"
    subset: str = ""
    real: str = ""


class ZeroShot:
    """Zero-shot classification: which class, in a prompt, is closest to each labelled record.

    Its keys are those of `Classification`.
    """

    def __init__(
        self,
        name: str,
        spec: Any,
        subject: Subject,
        *,
        source: Source | None = None,
        classes: Classes | None = None,
        answers: Sequence[Sequence[int]] | None = None,
    ):
        """`source` stands in for that of the spec, its classes are `classes`; `answers` are the
        right classes by its labels."""
        self._name, self._answers = name, answers
        self._of, self._text = pair(subject, spec.of, name)
        self._medium = embedding(subject.model).get(self._of, "record")
        names, ids = class_words(spec.classes, name)
        if source is None:
            opened = open_test(spec, name, labels=True)
            source, classes = named(opened, names, ids, name, allow_skips=spec.allow_skips)
        self._source, self.classes = source, classes
        self._subset = subset_of(spec.subset, names, ids, name)
        templates = templates_of(spec.templates, name)
        if spec.protocol == "big_vision":
            names, templates = big_vision_words(names, templates)
        self._embedder = Embedder.of(spec, subject)
        self._views: Views | None = None
        self._softmax = spec.get("aggregate") == "softmax"
        if "views" in spec:  # of images alone there are no such keys
            read = dict(self._embedder.reads).get(self._of)
            self._views = views_of(spec, read, subject.model, name)
        self._weights = _text_classifier(self._embedder, tuple(names), tuple(templates), self._text)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics."""
        several = self._answers is not None
        return (*accuracy_names(several, average=self._average), *self._protocol)

    def __call__(self, params: Any) -> dict[str, float]:
        """Metrics as `accuracy` names them, the same on every host."""
        with on_mesh(params) as params:
            of = (self._of, self._text)
            records, weights, skipped = self._embedder.beside(
                params, self._source, of, self._weights(params), self._views
            )
            averaged = self._views and self._softmax
            scale = self._embedder.scale(params) if averaged else None
        self._check(records, len(weights))
        label, subset = records["label"], self._subset
        if isinstance(subset, str):
            subset = np.unique(label) if subset == "present" else np.arange(len(weights))
        kept, labels = restrict(label, self._answers, subset)
        if not len(kept):
            raise UserError(
                f"evals.{self._name}: no {self._medium} is of the classes of its subset."
            )
        embed, weights = records[f"{self._of}/embed"][kept], weights[subset]
        if self._views:
            metrics = view_accuracy(embed, weights, labels, scale)
        else:
            metrics = accuracy(embed, weights, labels, average=self._average)
        return metrics | self._protocol | skipped

    @property
    def _average(self) -> bool:
        """Whether the mean of top-1 and top-5 is asked for, as it is of videos."""
        return self._medium == "video"

    @property
    def _protocol(self) -> dict[str, float]:
        """The numbers of views and crops, which belong to the result where there are several."""
        if self._views is None:
            return {}
        return {"views": float(self._views.views), "crops": float(self._views.crops)}

    def _check(self, records: dict[str, np.ndarray], classes: int) -> None:
        """All labels are in range, and all classes exist."""
        label, last = records["label"], classes if self._answers is None else len(self._answers)
        wrong = np.flatnonzero((label < 0) | (label >= last))
        if wrong.size:
            key = self._source[int(records["index"][wrong[0]])].key
            found = int(label[wrong[0]])
            problem = "no label" if found < 0 else f"the label {found}"
            from_one = found == classes and label.min() > 0
            raise UserError(
                f"evals.{self._name}: {key} has {problem}, but there are {classes} classes, "
                f"0 to {classes - 1}: check the keys label and classes"
                + (", the labels seem to count from 1." if from_one else ".")
            )


def imagenet(name: str, spec: Any, subject: Subject) -> ZeroShot:
    """Zero-shot classification of ImageNet-1k, -V2, -A, -R or -Sketch.

    `open_imagenet` says in what layouts they are read.

    Sets of fewer classes (-A and -R) restrict the classifier to these unless the spec has a
    `subset`. Its keys are those of `ImageNet`.
    """
    source, few = open_imagenet(source_of(spec), name)
    check_complete(source, spec.allow_skips)
    names, ids = class_words(spec.classes, name)
    if len(names) != CLASSES:
        raise UserError(
            f"evals.{name}: classes={spec.classes} has {len(names):,} names, and ImageNet "
            f"{CLASSES:,} classes: use the kind classification."
        )
    # The ids of the devkit count from 1, too, but in another order.
    source, classes = named(
        source, names, ids or wnids(), name, allow_skips=spec.allow_skips, from_one=False
    )
    answers = None
    if spec.real:
        source, answers = open_real(source, Path(spec.real), name)
    spec.subset = spec.subset or ("present" if few else "all")
    return ZeroShot(name, spec, subject, source=source, classes=classes, answers=answers)


def subset_of(given: str, classes: Sequence[str], ids: Sequence[str], name: str) -> Any:
    """Sorted class numbers int [n] of a file's lines; "all" and "present" as they are."""
    if given in ("all", "present"):
        return given
    number = {str(label): label for label in range(len(classes))}
    for names in (classes, ids):
        number |= {word: i for i, word in enumerate(names) if list(names).count(word) == 1}
    found = []
    for line in read_lines(Path(given), name):
        if line not in number:
            raise UserError(
                f"evals.{name}.subset: {line!r} in {given} is no label below {len(classes)} and "
                "not the name of exactly one class."
            )
        found.append(number[line])
    return np.unique(found)


def restrict(
    label: np.ndarray, answers: Sequence[Sequence[int]] | None, subset: np.ndarray
) -> tuple[np.ndarray, Labels]:
    """The records with a right class in `subset`, int [n], and the index of that class in it."""
    index = {int(number): position for position, number in enumerate(subset)}
    if answers is None:
        kept = np.flatnonzero(np.isin(label, subset))
        return kept, np.array([index[int(number)] for number in label[kept]], np.int64)
    right = [tuple(index[c] for c in answers[number] if c in index) for number in label]
    kept = np.flatnonzero([len(classes) > 0 for classes in right])
    return kept, [right[record] for record in kept]


class TextClassifier:
    """The classifier of classes and templates; prompts are embedded once for the same parameters.

    So an evaluator embeds them once, and evaluators of the same class names share it.
    """

    def __init__(
        self, embedder: Embedder, classes: Sequence[str], templates: Sequence[str], part: str
    ):
        self._embedder, self._part = embedder, part
        filled = prompts(classes, templates)
        # Equal prompts (ImageNet has two classes called "missile") are embedded once, so that
        # their scores tie exactly.
        distinct, prompt_number = np.unique(filled, return_inverse=True)
        self._prompt_number = prompt_number.reshape(len(classes), -1)
        self._tokens = embedder.tokenize(distinct.tolist(), part)
        self._last: tuple[list[weakref.ref], np.ndarray] = [], np.zeros(0, np.float32)

    def __call__(self, params: Any) -> np.ndarray:
        """float32 [classes, D]; [classes, templates, D] where they depend on the record."""
        leaves = jax.tree.leaves(params)
        references, weights = self._last
        if len(references) == len(leaves) and all(
            reference() is leaf for reference, leaf in zip(references, leaves, strict=True)
        ):
            return weights
        texts = self._embedder.texts(params, self._tokens, self._part)
        weights = texts[self._prompt_number]
        if not self._embedder.conditions(self._part):
            weights = classifier(weights)
        if all(isinstance(leaf, jax.Array) for leaf in leaves):  # what nobody can change in place
            self._last = [weakref.ref(leaf) for leaf in leaves], weights
        return weights


@functools.lru_cache(maxsize=4)
def _text_classifier(
    embedder: Embedder, classes: tuple[str, ...], templates: tuple[str, ...], part: str
) -> TextClassifier:
    return TextClassifier(embedder, classes, templates, part)
