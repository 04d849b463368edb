"""Sharding rules over every architecture: what is split, by which axis, and what lies with it."""

import functools
import math

import jax
import pytest
import tiny
from jax.sharding import PartitionSpec as P

from mmjax import config as config_lib
from mmjax import models
from mmjax.core import optim
from mmjax.core.state import abstract_state
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import rules
from mmjax.params import path_string, role

MESHES = [(1, 1), (8, 1), (256, 1), (1, 2), (4, 4), (32, 8)]  # (fsdp, tensor)
BYTES_THAT_MATTER = 1e6


@functools.cache
def shapes(name):
    leaves = jax.tree_util.tree_leaves_with_path(tiny.shapes(models.create(name)))
    return {path_string(path): leaf.shape for path, leaf in leaves}


def axes_of(spec, ndim):
    return (*spec, *(None,) * (ndim - len(spec)))


@pytest.mark.parametrize(("fsdp", "tensor"), MESHES)
@pytest.mark.parametrize("name", models.zoo.list_models())
def test_every_parameter_has_a_layout_that_divides(name, fsdp, tensor):
    sizes = {"data": 2, "fsdp": fsdp, "tensor": tensor}
    model = models.create(name)
    towers = [model.module(part) for part in ("image", "text") if model.module(part)]
    if any(tower.heads % tensor for tower in towers):
        return  # tensor splits whole heads; the config checks refuse this mesh
    for path, shape in shapes(name).items():
        axes = axes_of(rules.param_spec(path, shape, sizes), len(shape))
        used = [axis for axis in axes if axis]
        assert len(used) == len(set(used)), path
        for axis, size in zip(axes, shape, strict=True):
            assert axis is None or size % sizes[axis] == 0, path
        if "/blocks/" in path:
            assert axes[0] is None, path
        split = math.prod(sizes[axis] for axis in used)
        if role(path).kind in ("norm", "token", "scale"):
            assert split == 1, path
        elif math.prod(shape) * 4 > BYTES_THAT_MATTER and fsdp <= 8:
            assert "fsdp" in used or fsdp == 1, path


def test_fsdp_takes_the_largest_dimension_that_it_divides():
    spec = functools.partial(rules.param_spec, sizes={"data": 1, "fsdp": 4, "tensor": 1})
    assert spec("text/token_embed/embedding", (49408, 512)) == P("fsdp")
    assert spec("text/token_embed/embedding", (49407, 512)) == P(None, "fsdp")
    assert spec("image/blocks/mlp/fc1/kernel", (12, 768, 3072)) == P(None, None, "fsdp")
    assert spec("image/blocks/mlp/fc2/kernel", (12, 3072, 768)) == P(None, "fsdp")
    assert spec("image/patch_embed/kernel", (14, 14, 3, 1024)) == P(None, None, None, "fsdp")
    assert spec("image/position_embed", (50, 770)) == P()
    assert spec("image/blocks/mlp/fc1/bias", (12, 3072)) == P()


def test_tensor_splits_heads_and_hidden_units_and_fsdp_the_rest():
    spec = functools.partial(rules.param_spec, sizes={"data": 1, "fsdp": 2, "tensor": 4})
    for name in ("query", "key", "value"):
        path = f"image/blocks/attention/{name}"
        assert spec(f"{path}/kernel", (12, 768, 768)) == P(None, "fsdp", "tensor")
        assert spec(f"{path}/bias", (12, 768)) == P(None, "tensor")
    assert spec("image/blocks/attention/out/kernel", (12, 768, 768)) == P(None, "tensor", "fsdp")
    assert spec("image/blocks/attention/out/bias", (12, 768)) == P()
    assert spec("text/blocks/mlp/fc1/kernel", (12, 512, 2048)) == P(None, "fsdp", "tensor")
    assert spec("text/blocks/mlp/fc1/bias", (12, 2048)) == P(None, "tensor")
    assert spec("text/blocks/mlp/fc2/kernel", (12, 2048, 512)) == P(None, "tensor", "fsdp")
    assert spec("text/blocks/mlp/fc2/bias", (12, 512)) == P()


def test_a_tensor_axis_that_does_not_divide_names_the_parameter():
    with pytest.raises(ValueError, match=r"image/blocks/mlp/fc1/kernel.*tensor=5.*3072"):
        rules.param_spec(
            "image/blocks/mlp/fc1/kernel", (12, 768, 3072), {"data": 1, "fsdp": 1, "tensor": 5}
        )


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "adafactor", "muon"])
def test_moments_and_the_average_lie_as_their_parameter(optimizer):
    config = config_lib.default()
    config.optim.update({"name": optimizer, "freeze": ("text/token_embed",), "grad_clip": 1.0})
    model = models.create("tiny")
    rates = optim.lr_multipliers(config.optim, tiny.shapes(model))
    tx = optim.optimizer(config.optim, rates)
    state = abstract_state(model, tx, ema=True, mesh=mesh_lib.make_mesh(2, 2, 2))
    own = {
        path_string(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
    }
    found = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path((state.opt_state, state.ema)):
        name = next((p for p in own if path_string(path).endswith("/" + p)), None)
        if name and own[name].shape == leaf.shape:
            assert leaf.sharding == own[name].sharding, path_string(path)
            found += 1
        else:
            assert leaf.sharding.spec == P(), path_string(path)
    moments = {"adamw": 2, "lion": 1, "adafactor": 1, "muon": 1}[optimizer]
    assert found >= moments * (len(own) - 1) + len(own)  # the frozen one has none


def test_the_largest_parameters_of_a_pod_are_spread_over_it():
    """H/14 over fsdp 64: no device keeps more than a fiftieth of the whole."""
    sizes = {"data": 4, "fsdp": 64, "tensor": 1}
    total = held = 0
    for path, shape in shapes("ViT-H/14").items():
        size = math.prod(shape)
        total += size
        held += size // (64 if "fsdp" in rules.param_spec(path, shape, sizes) else 1)
    assert held < total / 50
