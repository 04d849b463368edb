"""The views of a batch through the model: each tower once for each distinct input of its own.

A view that leaves the image as it is (a masked text, a caption) shares the image tower's run with
the plain view, and so for texts; the fusion runs once a view.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.models import Multimodal
from mmjax.models.multimodal import MODEL_OUTPUTS
from mmjax.objectives.registry import Batch, Objective, Outputs, Rows

Objectives = Mapping[str, tuple[Objective, float]]
Keys = Mapping[str, jax.Array]


def run_views(
    model: Multimodal,
    objectives: Objectives,
    params: Any,
    batch: Batch,
    key: jax.Array,
    *,
    microbatches: int = 1,
    train: bool = True,
) -> Outputs:
    """Runs the model once a view; returns view → name → array of the whole batch.

    Names are those of outputs, and of the columns of views that were made.

    With `microbatches` = k the towers see B/k examples at a time and are recomputed in the backward
    pass; the outputs, and so the negatives, are those of the whole batch.
    """
    makers: dict[str, Any] = {"plain": lambda batch, key: batch}
    choosers: dict[str, Any] = {}
    required: dict[str, set[str]] = {}
    for objective, _ in objectives.values():
        makers |= objective.views
        choosers |= objective.pairs
        for view, names in objective.requires.items():
            required.setdefault(view, set()).update(names)
    keys = {view: jax.random.fold_in(key, index) for index, view in enumerate(sorted(required))}

    batches = {view: makers[view](batch, keys[view]) for view in required if view in makers}
    outputs = run_batches(
        model, params, batches, {view: tuple(sorted(required[view])) for view in batches},
        keys=keys, microbatches=microbatches, train=train,
    )  # fmt: skip
    made = {view: part for view, part in batches.items() if view != "plain"}
    result = {view: {**made.get(view, {}), **outputs[view]} for view in batches}
    for view in sorted(required.keys() & choosers.keys()):
        rows = choosers[view](result, batch, keys[view])
        names = tuple(sorted(required[view]))
        masks = {name: batch[name] for name in ("text_mask", "regions_mask") if name in batch}
        plain = {**masks, **result["plain"]}
        result[view] = _run_pairs(model, params, plain, rows, names, microbatches)
    return result


def run_batches(
    model: Multimodal,
    params: Any,
    batches: Mapping[str, Batch],
    names: Mapping[str, tuple[str, ...]],
    *,
    keys: Keys,
    microbatches: int = 1,
    train: bool = False,
) -> dict[str, dict[str, Any]]:
    """View → the named outputs of its batch. Views that share a column share its array.

    `keys` are for dropout: a shared tower takes that of its first view.
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

    # (tower, numbers of the columns it reads) → (its first view, the outputs that all views need)
    runs: dict[tuple, tuple[str, set[str]]] = {}
    shared: dict[str, list[tuple]] = {view: [] for view in layout}
    for view, places in layout.items():
        for tower, needed in zip(("image", "text"), model.needs(names[view]), strict=True):
            if needed:
                key = (tower, *(places.get(name) for name in model.reads(tower)))
                runs.setdefault(key, (view, set()))[1].update(needed)
                shared[view].append(key)

    def run(columns: list[jax.Array], keys: Keys) -> dict[str, dict[str, Any]]:
        parts = {v: {name: columns[i] for name, i in at.items()} for v, at in layout.items()}
        known: dict[tuple, Any] = {
            key: model.apply(
                {"params": params}, parts[view], tuple(sorted(needed)), train=train,
                rngs={"dropout": keys[view]},
            )
            for key, (view, needed) in runs.items()
        }  # fmt: skip
        results: dict[str, Any] = {}
        for view, part in parts.items():
            given = {name: x for key in shared[view] for name, x in known[key].items()}
            of_examples = tuple(name for name in names[view] if name not in MODEL_OUTPUTS)
            results[view] = model.apply({"params": params}, part, of_examples, given=given)
        return results

    outputs = _in_parts(run, columns, dict(keys), microbatches)
    for view, part in batches.items():
        scalars = tuple(name for name in names[view] if name in MODEL_OUTPUTS)
        outputs[view] |= model.apply({"params": params}, part, scalars)
    return outputs


def _run_pairs(
    model: Multimodal,
    params: Any,
    plain: Mapping[str, Any],
    rows: Rows,
    names: tuple[str, ...],
    microbatches: int,
) -> dict[str, Any]:
    """The fusion's outputs for image rows[0][m] with text rows[1][m], from the towers' tokens."""

    def run(rows: Rows, keys: Keys) -> dict[str, Any]:
        images, texts = rows
        pair = {name: plain[name][texts] for name in ("text_mask", "text_tokens")}
        of_image = plain.keys() & {"image_tokens", "regions_mask"}
        pair |= {name: plain[name][images] for name in sorted(of_image)}
        outputs: Any = model.apply({"params": params}, pair, names, given=pair)
        return outputs

    return _in_parts(run, rows, {}, microbatches)


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
