"""How parameters are laid out for embedding: the same numbers, and no kernel copied."""

import jax
import numpy as np
import pytest
import tiny

from mmjax import config as config_lib
from mmjax import models
from mmjax.evaluation.embed import Embedder, layers_apart, layers_together
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
def test_an_embedder_takes_layers_apart_only_where_they_are_written_out(unroll, monkeypatch):
    config = tiny.config()
    config.model.image.unroll = config.model.text.unroll = unroll
    model = models.from_config(config.model)
    embedder = Embedder.of(config_lib.entry("evals"), config, model, tokenizer=None)
    used = []
    monkeypatch.setattr("mmjax.evaluation.embed._jitted", lambda *_: lambda p, b: used.append(p))
    monkeypatch.setattr("mmjax.evaluation.embed._rows", lambda _: {"text/embed": np.zeros((1, 16))})
    texts = {"text": np.ones((1, 8), np.int32), "text_mask": np.ones((1, 8), bool)}
    with jax.set_mesh(make_mesh()):
        embedder.texts(tiny.params(model), texts)
    assert isinstance(used[0]["text"]["blocks"]["mlp"]["fc1"]["kernel"], tuple) == unroll
