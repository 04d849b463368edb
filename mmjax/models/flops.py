"""Floating-point operations of matrix products, as MFU counts them (a multiply-add is two).

They are counted in the traced program, not by a formula for each architecture, so that no layer,
view or head is forgotten.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core
from ml_collections import ConfigDict

from mmjax import models
from mmjax.models.graph import Graph
from mmjax.models.parts import sections


def forward_flops(config: ConfigDict, params: Any) -> int:
    """Of embedding one image–text pair with `config.model` (what of it there is a tower for), and
    of fusing it where there is a fusion; no head over a vocabulary. `params` may be shapes."""
    model = plain_model(config)
    names = [n for n in model.outputs() if n.endswith("/embed") or n == "fusion/tokens"]
    batch = jax.eval_shape(lambda: models.dummy_batch(model))

    def embed(params: Any, batch: Any) -> Any:
        return model.apply({"params": params}, batch, tuple(names))

    rows = jax.tree.leaves(batch)[0].shape[0]
    return product_flops(embed, params, batch) // rows


def plain_model(config: ConfigDict) -> Graph:
    """The model of `config.model` whose traced program is quick to make and shows all products:
    layers in a loop, and attention in no kernel, which pads and hides them."""
    config = config.copy_and_resolve_references()
    quick = {"attention": "xla", "unroll": False, "remat": "none"}
    for part in sections(config).values():
        part.update({key: value for key, value in quick.items() if key in part})
    return models.from_config(config)


def product_flops(fn: Callable[..., Any], *args: Any) -> int:
    """Of the matrix products and convolutions of fn(*args); arguments may be shapes."""
    return _products(jax.make_jaxpr(fn)(*args))


def _products(jaxpr: Any) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        operands: list[Any] = [x.aval for x in (*eqn.invars, *eqn.outvars)]
        if eqn.primitive.name == "dot_general":
            left, _, result = operands
            (contracted, _), _ = eqn.params["dimension_numbers"]
            inner = math.prod(left.shape[i] for i in contracted)
            total += 2 * inner * math.prod(result.shape)
        elif eqn.primitive.name == "conv_general_dilated":
            _, kernel, result = operands
            channels = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(kernel.shape) // channels * math.prod(result.shape)
        inside = sum(map(_products, core.jaxprs_in_params(eqn.params)))
        total += inside * eqn.params.get("length", 1)  # a scan's
    return total
