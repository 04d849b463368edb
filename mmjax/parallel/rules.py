"""Which device holds which part of each parameter: path → PartitionSpec.

`tensor` splits heads and hidden units; `fsdp` splits the largest dimension that it divides of what
is left; the layer axis is never split, and vectors are held whole. Moments and averages of the
optimizer lie as their parameter does.
"""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.parallel.mesh import BATCH
from mmjax.params import path_string, role

# Roles too small to be worth an all-gather.
_WHOLE = ("norm", "statistic", "bias", "scale", "token")


def param_spec(path: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> P:
    """The PartitionSpec of one parameter on a mesh of these axis sizes."""
    of = role(path)
    axes: list[str | None] = [None] * len(shape)
    if of.stacked and of.split and sizes["tensor"] > 1:
        if shape[-of.split] % sizes["tensor"]:
            raise ValueError(
                f"parameter {path} {shape}: config.mesh.tensor={sizes['tensor']} does not "
                f"divide {shape[-of.split]}"
            )
        axes[len(shape) - of.split] = "tensor"
    if of.kind not in _WHOLE and sizes["fsdp"] > 1:
        free = [i for i in range(int(of.stacked), len(shape)) if axes[i] is None]
        fits = [i for i in free if shape[i] % sizes["fsdp"] == 0]
        if fits:
            axes[max(fits, key=lambda i: shape[i])] = "fsdp"
    while axes and axes[-1] is None:  # as JAX writes the shardings of a step's results
        axes.pop()
    return P(*axes)


def param_shardings(params: Any, mesh: Mesh | AbstractMesh) -> Any:
    """NamedShardings of a tree of parameters, or of their shapes."""
    sizes = dict(mesh.shape)
    return jax.tree_util.tree_map_with_path(
        lambda p, x: NamedSharding(mesh, param_spec(path_string(p), x.shape, sizes)), params
    )


def with_shardings(shapes: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Shapes of parameters as they lie on the mesh."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        param_shardings(shapes, mesh),
    )


def state_shardings(state: Any, mesh: Mesh | AbstractMesh) -> Any:
    """NamedShardings of a train state, or of its shapes.

    A leaf whose path ends in a parameter's path and that has its shape is a moment or an average of
    that parameter and lies as it does. Teachers lie by the same rules. What objectives keep,
    [n, B, …], is split along B. All else (counters, factored moments) is held whole.
    """
    trees = {"": state.params}
    trees |= {f"teachers/{name}/": tree for name, tree in state.teachers.items()}
    known: dict[str, tuple[tuple[int, ...], NamedSharding]] = {}
    for prefix, tree in trees.items():
        own = zip(
            jax.tree_util.tree_leaves_with_path(tree),
            jax.tree.leaves(param_shardings(tree, mesh)),
            strict=True,
        )
        known |= {prefix + path_string(path): (leaf.shape, lies) for (path, leaf), lies in own}
    whole = NamedSharding(mesh, P())
    split = tuple(axis for axis in BATCH if mesh.shape[axis] > 1)
    rows = split[0] if len(split) == 1 else split  # as JAX writes them

    def sharding(path, leaf):
        parts = path_string(path).split("/")
        if parts[0] == "memory":
            return NamedSharding(mesh, P(None, rows)) if leaf.ndim >= 2 and rows else whole
        for start in range(len(parts)):
            shape, found = known.get("/".join(parts[start:]), (None, whole))
            if shape == leaf.shape:
                return found
        return whole

    return jax.tree_util.tree_map_with_path(sharding, state)


def pin_state(state: Any) -> Any:
    """Keeps a new state in the layout of the rules, under the current mesh if there is one.

    Left alone, the compiler splits small results its own way, and the next step compiles again.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return state
    return jax.lax.with_sharding_constraint(state, state_shardings(state, mesh))
