"""Several texts in a row: the loss and the gradients of rows of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mmjax import models
from mmjax.data import packing
from mmjax.models import zoo
from mmjax.models.tokens import token_nll
from mmjax.models.towers.text import positions_in_segments

V, L, TEXTS, ROWS = 48, 16, 12, 8


def bert(**changes):
    config = zoo.config("bert-base-uncased")
    config.text.update(vocab_size=V, context_length=L, width=32, heads=2, mlp_dim=64, depth=1)
    config.text.update(unroll=False, **changes)
    config.dtype = "float32"
    return models.from_config(config)


def batches():
    """The same texts and targets in rows of their own, and packed."""
    rng = np.random.default_rng(5)
    lengths = rng.integers(3, L // 2, TEXTS)
    mask = np.arange(L) < lengths[:, None]
    text = np.where(mask, rng.integers(1, V, mask.shape), 0).astype(np.int32)
    targets = np.where(mask & (rng.random(mask.shape) < 0.3), rng.integers(1, V, mask.shape), -1)
    alone = {"text": text, "text_mask": mask, "targets": targets.astype(np.int32)}
    packed = packing.pack(text, mask, ROWS, pad_id=0)
    with_targets = packing.pack(targets.astype(np.int32), mask, ROWS, pad_id=-1)
    assert packed.left_out == 0
    assert packed.text_segment.max() > 1
    together = {"text": packed.text, "text_mask": packed.text_mask, "targets": with_targets.text}
    return alone, together | {"text_segment": packed.text_segment}


@pytest.mark.parametrize(
    "changes",
    [{"position_offset": 2}, {"causal": True, "mask_padding": False, "norm": "pre"}],
    ids=["RoBERTa", "causal"],
)
def test_loss_and_gradients_are_those_of_rows_of_their_own(changes):
    model = bert(**changes)
    params = tiny.params(model)

    def loss(params, batch):
        outputs = model.apply({"params": params}, batch, ("text/tokens", "text/lm_head"))
        head = outputs["text/lm_head"]
        sums = token_nll(head.hidden(outputs["text/tokens"]), batch["targets"], head.unembedding())
        return sums.nll.sum() / jnp.maximum(sums.targets.sum(), 1.0), sums.targets.sum()

    (one, n), theirs = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, batches()[0])
    (two, m), ours = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, batches()[1])
    assert int(n) == int(m) > 5
    assert float(two) == pytest.approx(float(one), rel=1e-6)
    for path, gradient in jax.tree.leaves_with_path(theirs):
        mine = dict(jax.tree.leaves_with_path(ours))[path]
        np.testing.assert_allclose(mine, gradient, atol=2e-6, err_msg=str(path))


def test_without_segments_the_texts_see_each_other():
    """So that the test above cannot pass by accident."""
    model, (_, together) = bert(), batches()
    params = tiny.params(model)
    mixed = {k: v for k, v in together.items() if k != "text_segment"}
    outputs = [
        model.apply({"params": params}, b, ("text/tokens",))["text/tokens"]
        for b in (together, mixed)
    ]
    assert np.abs(outputs[0] - outputs[1])[together["text_segment"] == 2].max() > 0.01


def test_positions_restart():
    segment = jnp.array([[1, 1, 1, 2, 2, 0], [3, 1, 1, 1, 1, 1]])
    assert positions_in_segments(segment).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]]
