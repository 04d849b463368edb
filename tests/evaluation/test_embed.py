"""How parameters are laid out for embedding: the same numbers, and no kernel copied."""

import jax
import numpy as np
import tiny

from mmjax import models
from mmjax.evaluation.embed import layers_apart, layers_together


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
        return model.apply({"params": lay_out(params)}, batch, ("image_embed",))["image_embed"]

    stacked = jax.jit(lambda params: embed(params, lambda p: p)).lower(params).compile()
    layers = jax.jit(lambda params: embed(params, layers_together)).lower(apart).compile()
    np.testing.assert_array_equal(layers(apart), stacked(params))
    copies = "f32[1,32,64]{2,1,0} slice("  # of the first kernel of the MLP
    assert copies in stacked.as_text()
    assert copies not in layers.as_text()
