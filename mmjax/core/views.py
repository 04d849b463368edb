"""The views of a batch through the model: each part once for each distinct input of its own.

A view that leaves the image as it is (a masked text, a caption) shares the image tower's run with
the plain view, and so for texts; a fusion runs once a view. Frozen models and the averaged
parameters see views, too, without a gradient.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from mmjax.models import Graph
from mmjax.models.graph import Call
from mmjax.objectives.registry import (
    LOCAL,
    PLAIN,
    Batch,
    Objective,
    Outputs,
    Own,
    Rows,
    View,
    frozen_of,
    is_frozen,
)

Objectives = Mapping[str, tuple[Objective, float]]
Keys = Mapping[str, jax.Array]
NOTHING = Own()


class Frozen(Protocol):
    """A model without a gradient that objectives may read: a teacher, or the average."""

    def outputs(
        self,
        params: Any,
        batch: Batch,
        view: Batch | None,
        names: tuple[str, ...],
        run: Callable[..., Mapping[str, Any]],
    ) -> Mapping[str, Any]:
        """The named outputs for its own view of `batch`, or for `view` where that is given;
        `run(model, params, batch, names)` runs a model."""  # fmt: skip
        ...

    def of_model(self, names: Collection[str]) -> set[str]:
        """Those of the outputs that belong to the model and not to examples."""
        ...


def run_views(
    model: Graph,
    objectives: Objectives,
    params: Any,
    batch: Batch,
    key: jax.Array,
    *,
    own: Mapping[str, Own] | None = None,
    frozen: Mapping[str, tuple[Frozen, Any]] | None = None,
    microbatches: int = 1,
    train: bool = True,
) -> Outputs:
    """Runs what the objectives require; returns view → name → array of the whole batch.

    Names are those of outputs, and of the columns of views that were made. What an objective
    computed inside the microbatches is at "local/NAME".

    Args:
      own: what objectives declared, by name.
      frozen: "ema", "teacher/NAME" → the model and its parameters.
      microbatches: k: the model sees B/k examples at a time and is recomputed in the backward pass;
        the outputs, and so the negatives, are those of the whole batch.
      train: turns on what is random in training only.
    """
    makers = {PLAIN: View(lambda batch, key, frozen: batch)}
    choosers: dict[str, Any] = {}
    required: dict[str, set[str]] = {}  # of all
    leaving: dict[str, set[str]] = {}  # of those whose loss sees the whole batch
    for objective, _ in objectives.values():
        makers |= objective.views
        choosers |= objective.pairs
        for view, outputs in objective.all_requires():
            required.setdefault(view, set()).update(outputs)
            if objective.local is None:
                leaving.setdefault(view, set()).update(outputs)
    keys = _keys(required, key)

    def run(model: Graph, params: Any, batch: Batch, names: tuple[str, ...]) -> Mapping[str, Any]:
        return run_plain(model, params, batch, names, microbatches)

    def run_frozen(view: str, shown: Batch | None) -> Mapping[str, Any]:
        theirs, their_params = (frozen or {})[frozen_of(view)[0]]
        names = tuple(sorted(required[view]))
        return jax.lax.stop_gradient(theirs.outputs(their_params, batch, shown, names, run))

    asked = {view: frozen_of(view)[1] for view in required if is_frozen(view)}
    others = {view: run_frozen(view, None) for view, of in asked.items() if of == PLAIN}
    batches = {PLAIN: batch} | {
        view: makers[view].make(batch, keys[view], {v: others[v] for v in makers[view].reads})
        for view in keys
        if view in makers
    }
    others |= {view: run_frozen(view, batches[of]) for view, of in asked.items() if of != PLAIN}

    names = {view: tuple(sorted(required.get(view, ()))) for view in batches}
    of_model = {view: (frozen or {})[frozen_of(view)[0]][0].of_model(required[view])
                for view in others}  # fmt: skip
    theirs = {v: {n: x for n, x in found.items() if n not in of_model[v]}
              for v, found in others.items()}  # fmt: skip

    def inside(outputs: Outputs, theirs: Outputs) -> tuple[Any, Any]:
        """What leaves a microbatch: outputs for global losses, sums of local ones."""
        every = dict(outputs)
        for view, found in theirs.items():
            every[view] = {**found, **{name: others[view][name] for name in of_model[view]}}
        # Those that make a view before those that read it: gradients add up in this order.
        makers_first = sorted(objectives, key=lambda name: not objectives[name][0].views)
        locals_ = {name: objectives[name][0].local for name in makers_first}
        local = {
            name: of(every, every[PLAIN], (own or {}).get(name, NOTHING))
            for name, of in locals_.items()
            if of is not None
        }
        return {v: {n: outputs[v][n] for n in leaving.get(v, ())} for v in outputs}, local

    left, local = run_batches(
        model, params, batches, names, keys=keys, microbatches=microbatches, train=train,
        inside=inside, more=(theirs,),
    )  # fmt: skip
    made = {view: part for view, part in batches.items() if view != PLAIN}
    result: dict[str, Any] = {view: {**made.get(view, {}), **left[view]} for view in batches}
    result |= others
    result |= {f"{LOCAL}/{name}": sums for name, sums in local.items()}
    for view in sorted(required.keys() & choosers.keys(), key=_order):
        rows = choosers[view](result, batch, keys[view])
        names_of_pairs = tuple(sorted(required[view]))
        known = {**batch, **result[PLAIN]}
        result[view] = _run_pairs(model, params, known, rows, names_of_pairs, microbatches)
    return result


def run_plain(
    model: Graph, params: Any, batch: Batch, names: tuple[str, ...], microbatches: int = 1
) -> Mapping[str, Any]:
    """The named outputs of one batch, nothing random."""
    keys = {PLAIN: jax.random.key(0)}
    outputs, _ = run_batches(
        model, params, {PLAIN: batch}, {PLAIN: names}, keys=keys, microbatches=microbatches,
        train=False,
    )  # fmt: skip
    return outputs[PLAIN]


def run_batches(
    model: Graph,
    params: Any,
    batches: Mapping[str, Batch],
    names: Mapping[str, tuple[str, ...]],
    *,
    keys: Keys,
    microbatches: int = 1,
    train: bool = True,
    inside: Callable[..., tuple[Any, Any]] | None = None,
    more: tuple[Any, ...] = (),
) -> tuple[dict[str, dict[str, Any]], Any]:
    """The named outputs of several batches (view → columns), each part run once for each distinct
    input. Views that share a column share its array.

    Args:
      keys: for dropout: a shared run takes that of its first view.
      inside: (outputs and columns by view, *more) → (outputs that leave the microbatch, anything
        else [b, …]); called on each microbatch, `more` cut as the batch is. None: `names` leave.

    Returns:
      what `inside` returned, of the whole batch; outputs of the model itself are added to the
      first.
    """
    # Distinct arrays are cut into parts once, and known by their numbers after that.
    columns: list[jax.Array] = []
    numbers: dict[int, int] = {}  # id of an array → its number
    layout: dict[str, dict[str, int]] = {}
    for view in sorted(batches):
        for array in batches[view].values():
            if id(array) not in numbers:
                numbers[id(array)] = len(columns)
                columns.append(array)
        layout[view] = {name: numbers[id(array)] for name, array in batches[view].items()}

    plans = {view: model.plan(at, names[view]) for view, at in layout.items()}
    calls: dict[Call, tuple[str, set[str]]] = {}  # → its first view, the outputs that all need
    for view, plan in plans.items():
        for call, wanted in plan.calls.items():
            calls.setdefault(call, (view, set()))[1].update(wanted)

    def run_calls(known: dict[Any, Any], of_model: bool, keys: Keys) -> dict[Any, Any]:
        for call, (view, wanted) in calls.items():
            if bool(call.inputs) != of_model:
                found: Any = model.apply(
                    {"params": params}, call, known, wanted, train, method="call",
                    rngs={"dropout": keys[view]},
                )  # fmt: skip
                known |= found
        return known

    scalars = run_calls({}, True, keys)

    def run(arrays: tuple[list[jax.Array], tuple[Any, ...]], keys: Keys) -> Any:
        columns, more = arrays
        known = run_calls({**dict(enumerate(columns)), **scalars}, False, keys)
        outputs = {
            view: {name: known[plan.values[name]] for name in (*layout[view], *names[view])}
            for view, plan in plans.items()
        }
        leave: Any
        rest: Any = {}
        if inside is None:
            leave = {view: {n: outputs[view][n] for n in names[view]} for view in outputs}
        else:
            leave, rest = inside(outputs, *more)
        # What belongs to the model is no row of a microbatch: it is added below.
        return {v: {n: x for n, x in found.items() if plans[v].values[n] not in scalars}
                for v, found in leave.items()}, rest  # fmt: skip

    outputs, rest = _in_parts(run, (columns, more), dict(keys), microbatches)
    for view, plan in plans.items():
        outputs[view] |= {
            name: scalars[plan.values[name]] for name in names[view] if plan.values[name] in scalars
        }
    return outputs, rest


def _order(view: str) -> tuple[str, str]:
    """Views by the last part of their names: their random numbers are then those of runs that began
    when objectives did not name their views."""
    return view.rpartition("/")[2], view


def _keys(required: Collection[str], key: jax.Array) -> dict[str, jax.Array]:
    """A key for each view that is made: those of the model first, then those that frozen models
    alone are shown."""
    ours = sorted((view for view in required if not is_frozen(view)), key=_order)
    shown = {frozen_of(view)[1] for view in required if is_frozen(view)}
    views = ours + sorted(shown.difference(ours, (PLAIN,)), key=_order)
    return {view: jax.random.fold_in(key, index) for index, view in enumerate(views)}


def _run_pairs(
    model: Graph,
    params: Any,
    known: Mapping[str, Any],
    rows: Rows,
    names: tuple[str, ...],
    microbatches: int,
) -> dict[str, Any]:
    """Outputs of joints for rows[PART][m] of each part, from what the towers gave before."""
    sources = {source: _owner(source, rows) for source in model.sources(names, known)}

    def run(rows: Rows, keys: Keys) -> dict[str, Any]:
        pair = {source: known[source][rows[part]] for source, part in sources.items()}
        outputs: Any = model.apply({"params": params}, pair, names)
        return outputs

    return _in_parts(run, rows, {}, microbatches)


def _owner(source: str, rows: Rows) -> str:
    """The part that a column or an output is of."""
    parts = [p for p in rows if source == p or source.startswith((f"{p}/", f"{p}_"))]
    if not parts:
        raise ValueError(f"{source!r} is of none of the parts that pair, {', '.join(rows)}")
    return max(parts, key=len)


def _in_parts(run: Any, arrays: Any, keys: Keys, parts: int) -> Any:
    """`run(arrays, keys)` over `parts` pieces of the batch, put together again.

    Parts are cut as [B/k, k]: cut as [k, B/k], each would lie on a few devices and be gathered.
    """
    if parts == 1:
        return run(arrays, keys)

    def cut(x):
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    def join(x):
        x = x.swapaxes(0, 1)
        return x.reshape(x.shape[0] * parts, *x.shape[2:])

    # The keys are a function of the part's number, so that the second pass draws the same.
    def of_part(index, part):
        return run(part, {view: jax.random.fold_in(key, index) for view, key in keys.items()})

    indexed = (jnp.arange(parts), jax.tree.map(cut, arrays))
    remat = jax.checkpoint(of_part)
    return jax.tree.map(join, jax.lax.map(lambda x: remat(*x), indexed))
