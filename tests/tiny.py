"""A model so small that its train step compiles in seconds, random weights and batches for it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mmjax import config as config_lib
from mmjax import models, objectives
from mmjax import params as roles
from mmjax.core import optim
from mmjax.core.state import TrainState, new_state
from mmjax.core.step import make_train_step
from mmjax.models import zoo
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import rules

DEPTH = 2
BATCH = 16
QUICK = {"xla_backend_optimization_level": 0}  # of a program that runs once: compiles in half


def config(**optim_keys: Any) -> ConfigDict:
    """A run of `clip` on towers of two scanned layers; `optim_keys` go to `config.optim`."""
    result = config_lib.default()
    model = result.model = zoo.config("tiny")
    model.embed_dim = 16
    model.image.update({"size": 16, "width": 32, "mlp_dim": 64, "depth": DEPTH, "unroll": False})
    model.text.update({"width": 32, "mlp_dim": 64, "depth": DEPTH, "unroll": False})
    model.text.update({"vocab_size": 64, "context_length": 8})
    result.objectives.clip = config_lib.entry("objectives")
    result.batch_size = BATCH
    result.optim.update({"schedule": "constant", "lr": 1e-2, **optim_keys})
    return result


def params(model: models.Graph, seed: int = 0, batch: Any = None) -> Any:
    """Random float32 parameters made by NumPy: quicker than compiling `models.init`.

    `batch`: for a model that reads other columns than those of `models.dummy_batch`.
    """
    rng = np.random.default_rng(seed)

    def leaf(role: roles.Role, shape: Any) -> np.ndarray:
        noise = rng.normal(size=shape.shape)
        if role.kind == "scale":
            return np.full(shape.shape, np.log(10.0), np.float32)
        if role.kind == "matrix":
            return (noise / np.sqrt(np.prod(shape.shape[int(role.stacked) : -1]))).astype("f4")
        return (0.1 * noise + role.path.endswith("/scale")).astype(np.float32)

    return roles.map_roles(leaf, shapes(model, batch))


def shapes(model: models.Graph, batch: Any = None) -> Any:
    if batch is not None:
        run = functools.partial(model.init, outputs=model.outputs())
        return jax.eval_shape(run, jax.random.key(0), batch)["params"]
    return jax.eval_shape(lambda key: models.init(model, key), jax.random.key(0))


def batch(model: ConfigDict, size: int = BATCH, length: int | None = None, seed: int = 1) -> dict:
    """Noise pictures and texts of random lengths."""
    rng = np.random.default_rng(seed)
    length = length or model.text.context_length
    lengths = rng.integers(2, length + 1, (size, 1))
    side = model.image.size
    return {
        "image": rng.integers(0, 256, (size, side, side, 3), dtype=np.uint8),
        "text": rng.integers(0, model.text.vocab_size, (size, length)).astype(np.int32),
        "text_mask": np.arange(length) < lengths,
        "group": np.arange(size, dtype=np.int32) // 2,
    }


@dataclasses.dataclass
class Run:
    """A train step that is ready to go, under its mesh."""

    mesh: jax.sharding.Mesh
    step: Callable  # not jitted
    jitted: Callable
    state: TrainState  # before the first step

    def steps(self, *batches: dict) -> tuple[TrainState, list[dict]]:
        """One step a batch: the last state, and the metrics of each."""
        state, history = self.state, []
        with jax.set_mesh(self.mesh):
            for local in batches:
                size = len(local["image"])
                state, metrics = self.jitted(state, mesh_lib.put_batch(local, size))
                history.append(jax.tree.map(float, metrics))
        return state, history


def run(
    config: ConfigDict,
    sizes: tuple[int, int, int] = (1, 1, 1),
    options: dict[str, Any] | None = None,
) -> Run:
    """The step, compiled with these options, and the first state of a run on a mesh of sizes."""
    model = models.from_config(config.model)
    rates = optim.lr_multipliers(config.optim, shapes(model))
    optimizer = optim.optimizer(config.optim, rates)
    mesh = mesh_lib.make_mesh(*sizes, jax.devices()[: int(np.prod(sizes))])
    built = objectives.build(config.objectives, config.model)
    step = make_train_step(model, built, optimizer, rates, config)
    state = jax.jit(lambda p: new_state(p, optimizer, ema=config.optim.ema > 0))(params(model))
    state = jax.device_put(state, rules.state_shardings(state, mesh))
    return Run(mesh, step, jax.jit(step, compiler_options=options), state)


def first_gradient(state: TrainState, b1: float = 0.9) -> Any:
    """The gradient of the first step, from Adam's first moment after it (no clipping)."""
    (mu,) = [s.mu for s in jax.tree.leaves(state.opt_state, is_leaf=_has_mu) if _has_mu(s)]
    return jax.tree.map(lambda m: np.asarray(m) / (1 - b1), mu)


def _has_mu(node: Any) -> bool:
    return hasattr(node, "mu")
