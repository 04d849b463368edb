"""Linear probe: multinomial logistic regression on frozen features, fitted by L-BFGS.

The protocol is CLIP's (Radford et al., 2021, A.3) with a held-out part of the training set: the
weight decay that does best on a fifth of it is used for a last fit on all. Few-shot probes draw
their records from the other four fifths and choose by the same fifth.
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmjax.evaluation.accuracy import accuracy_names, score_accuracy
from mmjax.evaluation.features import Features, Labelled, OfFeatures
from mmjax.evaluation.spec import Subject
from mmjax.inference import on_mesh, whole
from mmjax.parallel.mesh import batch_sharding, batch_shards
from mmjax.values import COUNT

DECAYS = 10.0 ** np.arange(-1, -8.5, -0.5)  # strong to weak
HELD_OUT = 5  # one in
STEPS, TOLERANCE = 500, 1e-6  # of L-BFGS; the largest entry of the gradient


def fit(
    train: Labelled, classes: int, decay: float, start: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The weights that minimise mean cross-entropy + decay / 2 · ‖w‖², under the current mesh.

    Args:
      train: features float32 [N, D] with labels below `classes`.
      classes: of the problem.
      decay: on w, not on the bias.
      start: where to begin, default 0; the minimum is the same.

    Returns:
      w float32 [D, classes], bias float32 [classes].
    """
    if start is None:
        start = np.zeros((train.x.shape[1], classes), np.float32), np.zeros(classes, np.float32)
    ones = np.ones(len(train.label), np.float32)
    x, label, counts = (_split_over_devices(column) for column in (train.x, train.label, ones))
    w, bias = _minimise(start, x, label, counts, np.float32(decay))
    return whole(w), whole(bias)


def sweep(
    train: Labelled, held_out: Labelled, classes: int
) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    """The decay of `DECAYS` that does best on `held_out` (of equals the strongest), and its fit."""
    found, weights = [], None
    for decay in DECAYS:
        weights = fit(train, classes, decay, weights)  # from the last, which is near
        right = (scores(held_out.x, weights).argmax(axis=1) == held_out.label).sum()
        found.append((int(right), float(decay), weights))
    _, decay, weights = max(found, key=lambda entry: entry[0])
    return decay, weights


def scores(x: np.ndarray, weights: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """float32 [N, classes], the same for any batch."""
    w, bias = weights
    return (x.astype(np.float64) @ w + bias).astype(np.float32)


def draw_shots(label: np.ndarray, shots: int, rng: np.random.Generator) -> np.ndarray:
    """The numbers of `shots` records of each class, drawn at random; all of a class with fewer."""
    order = rng.permutation(len(label))
    drawn = [order[label[order] == number][:shots] for number in np.unique(label)]
    return np.sort(np.concatenate(drawn))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeKeys(OfFeatures):
    """The keys of the kind "probe".

    Attributes:
      shots: Records a class of few-shot probes, e.g. (1, 2, 4, 8, 16), which come before the full
        one.
    """

    shots: Annotated[tuple[int, ...], COUNT] = ()


class Probe:
    """Linear probe: a linear classifier on frozen features, full or with few shots."""

    def __init__(self, name: str, spec: Any, subject: Subject):
        self._features = Features(name, spec, subject)
        self.classes = self._features.classes
        self._shots = spec.shots
        self._seed = subject.seed

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics."""
        names = (*accuracy_names(), "weight_decay")
        few = (f"{shots}-shot/{metric}" for shots in self._shots for metric in names)
        return (*names, *few)

    def __call__(self, params: Any) -> dict[str, float]:
        """Metrics as `rank_accuracy` names them and "weight_decay"; "N-shot/…" of few-shot ones."""
        with on_mesh(params) as params:
            train, test, skipped = self._features(params)
            classes = int(train.label.max()) + 1
            rng = np.random.default_rng(self._seed)
            order = rng.permutation(len(train.label))
            held_out, rest = (
                Labelled(train.x[rows], train.label[rows])
                for rows in (order[::HELD_OUT], np.delete(order, np.s_[::HELD_OUT]))
            )
            metrics: dict[str, float] = {}
            for shots in self._shots:
                rows = draw_shots(rest.label, shots, rng)
                few = Labelled(rest.x[rows], rest.label[rows])
                decay, weights = sweep(few, held_out, classes)
                found = score_accuracy(scores(test.x, weights), test.label)
                found["weight_decay"] = decay
                metrics |= {f"{shots}-shot/{metric}": value for metric, value in found.items()}
            decay, _ = sweep(rest, held_out, classes)
            weights = fit(train, classes, decay)
        found = score_accuracy(scores(test.x, weights), test.label)
        return metrics | found | {"weight_decay": decay} | skipped


def _split_over_devices(rows: np.ndarray) -> jax.Array:
    """A global array of rows that every host has, padded with zeros to what the devices divide."""
    missing = -len(rows) % batch_shards()
    padded = np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), rows.dtype)])
    return jax.make_array_from_callback(padded.shape, batch_sharding(), lambda at: padded[at])


@jax.jit
def _minimise(start, x, label, counts, decay):
    def loss(weights):
        w, bias = weights
        logits = jnp.dot(x, w, precision=jax.lax.Precision.HIGHEST) + bias
        each = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return counts @ each / counts.sum() + decay / 2 * (w**2).sum()

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry):
        weights, state = carry
        value, grad = value_and_grad(weights, state=state)
        updates, state = solver.update(grad, state, weights, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(weights, updates), state

    def unfinished(carry):
        count, grad = (optax.tree.get(carry[1], name) for name in ("count", "grad"))
        return (count == 0) | ((count < STEPS) & (optax.tree.norm(grad, ord=jnp.inf) > TOLERANCE))

    weights, _ = jax.lax.while_loop(unfinished, step, (start, solver.init(start)))
    return weights
