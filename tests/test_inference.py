"""How parameters are laid out for embedding: the same numbers, and no kernel copied."""

import jax
import numpy as np
import pytest
import tiny

from mmjax import inference, models
from mmjax.inference import layers_apart, layers_together
from mmjax.parallel.mesh import make_mesh


def test_kernels_apart_give_the_same_embeddings_without_a_copy():
    config = tiny.config().model
    config.image.unroll = True
    model = models.from_config(config)
    params, batch = tiny.params(model), {"image": tiny.batch(config)["image"]}
    apart = layers_apart(params)
    for path, kernel in jax.tree_util.tree_leaves_with_path(layers_together(apart)):
        original = params
        for key in path:
            original = original[key.key]
        np.testing.assert_array_equal(kernel, original)
    assert len(apart["image"]["blocks"]["mlp"]["fc1"]["kernel"]) == tiny.DEPTH

    def embed(params, lay_out):
        return model.apply({"params": lay_out(params)}, batch, ("image/embed",))["image/embed"]

    stacked = jax.jit(lambda params: embed(params, lambda p: p)).lower(params).compile()
    layers = jax.jit(lambda params: embed(params, layers_together)).lower(apart).compile()
    np.testing.assert_array_equal(layers(apart), stacked(params))
    copies = "f32[1,32,64]{2,1,0} slice("  # of the first kernel of the MLP
    assert copies in stacked.as_text()
    assert copies not in layers.as_text()


@pytest.mark.parametrize("unroll", [False, True])
def test_layers_are_taken_apart_once_and_only_where_they_are_written_out(unroll, monkeypatch):
    config = tiny.config()
    config.model.image.unroll = config.model.text.unroll = unroll
    model = models.from_config(config.model)
    made = []
    monkeypatch.setattr(inference, "layers_apart", lambda p: made.append(p) or layers_apart(p))
    params = jax.device_put(tiny.params(model))
    first, again = inference.laid_out(model, params), inference.laid_out(model, params)
    assert isinstance(first["text"]["blocks"]["mlp"]["fc1"]["kernel"], tuple) == unroll
    assert first is again
    assert len(made) == unroll
    inference.laid_out(model, jax.tree.map(lambda x: x + 1, params))
    assert len(made) == 2 * unroll


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("size", [8, 16])
def test_any_outputs_of_any_columns_are_those_of_one_pass(devices, size):
    """21 examples in batches of 8 and 16: padding falls out, other columns come along."""
    config = tiny.config()
    model = models.from_config(config.model)
    params, batch = tiny.params(model), tiny.batch(config.model, 21)
    outputs = ("image/tokens", "text/embed")
    expected = model.apply({"params": params}, batch, outputs)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:devices])):
        rows, count = inference.global_batch(size)[::-1]
        batches = inference.cut({**batch, "number": np.arange(21)}, count, rows)
        found = inference.run(model, params, batches, outputs, count, microbatches=1)
    assert found["number"].tolist() == list(range(21))
    for name in outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)
    assert set(found) == {*outputs, "number", "group"}
