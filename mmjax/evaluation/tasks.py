"""The evaluators by kind, and the one door that builds them from a config's entry."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.evaluation.knn import Knn, NearestNeighbours
from mmjax.evaluation.loss import HeldOutLoss
from mmjax.evaluation.probe import Probe, ProbeKeys
from mmjax.evaluation.referring import Referring, ReferringKeys
from mmjax.evaluation.retrieval import Retrieval, RetrievalKeys
from mmjax.evaluation.spec import Evaluation, Subject
from mmjax.evaluation.zeroshot import Classification, ImageNet, ZeroShot, imagenet
from mmjax.schema import RESUMABLE, Keys, checked, keys_of, kind_of, nearest

# From parameters to metrics. It may have `metrics`, their names, so that config.checkpoint.best is
# checked before the first step.
Evaluator = Callable[[Any], dict[str, float]]


class Kind(NamedTuple):
    """`make(name, spec, subject)` gives an evaluator of a `Subject` with these keys."""

    make: Callable[..., Evaluator]
    keys: Keys


KINDS: dict[str, Kind] = {
    "classification": Kind(ZeroShot, keys_of(Classification, RESUMABLE)),
    "imagenet": Kind(imagenet, keys_of(ImageNet, RESUMABLE)),
    "knn": Kind(NearestNeighbours, keys_of(Knn, RESUMABLE)),
    "loss": Kind(HeldOutLoss, keys_of(Evaluation, RESUMABLE)),
    "probe": Kind(Probe, keys_of(ProbeKeys, RESUMABLE)),
    "referring": Kind(Referring, keys_of(ReferringKeys, RESUMABLE)),
    "retrieval": Kind(Retrieval, keys_of(RetrievalKeys, RESUMABLE)),
}


def register(kind: str, keys: Any = Evaluation) -> Callable[[Any], Any]:
    """Adds an evaluator under the name that `config.evals.NAME.kind` gives it.

    Decorates a class or function of (name, spec, subject), the last a `Subject`; `keys`: the
    dataclass that declares the keys of `spec`, derived from `Evaluation`.
    """

    def add(make: Any) -> Any:
        KINDS[kind] = Kind(make, keys_of(keys, RESUMABLE))
        return make

    return add


def keys_at(name: str, spec: Mapping[str, Any] | ConfigDict) -> Keys:
    """The keys of `config.evals.NAME`; UserError: there is no evaluator of its kind."""
    kind = kind_of(name, spec)
    if kind not in KINDS and not spec.get("kind"):
        raise UserError(
            f"config.evals.{name} has no kind, nor is its name one: set config.evals.{name}.kind "
            f"to one of {', '.join(KINDS)}."
        )
    if kind not in KINDS:
        raise UserError(
            f"config.evals.{name}.kind={kind!r}: choose one of {', '.join(KINDS)} (nearest: "
            f"{nearest(kind, KINDS)})."
        )
    return KINDS[kind].keys


def build(name: str, spec: Mapping[str, Any] | ConfigDict, subject: Subject) -> Evaluator:
    """The evaluator of one entry of `config.evals`: parameters -> metrics.

    It runs under the current mesh (`jax.set_mesh`), or without one on all devices of this host.

    Args:
      name: the entry's name, for messages.
      spec: the keys of its kind; those left out are at their defaults.
      subject: the model that is evaluated.

    Raises:
      UserError: unknown kind, missing data, or a key that does not fit it.
    """
    spec = checked(keys_at(name, spec), f"evals.{name}", spec)
    make = KINDS[kind_of(name, spec)].make
    return make(name, spec, subject)
