"""Held-out loss: full batches in order, the same on every mesh."""

import jax
import numpy as np
import pytest
import small_run

from mmjax import evaluation
from mmjax.data import eval_batches, open_source
from mmjax.data.modalities import Image, Text
from mmjax.errors import UserError
from mmjax.parallel.mesh import make_mesh


def build(spec):
    config, model, _ = small_run.run()
    tokenizer = small_run.tokenizer()
    spec = {"kind": "loss"} | spec
    return evaluation.build("held", spec, evaluation.Subject.of(config, model, tokenizer))


@pytest.fixture
def table(tmp_path):
    return small_run.write_table(tmp_path, [[text] for text in small_run.captions(21)])


def test_is_the_mean_over_full_batches(table):
    _, _, params = small_run.run()
    batches = list(eval_batches(
        open_source({"path": table}), [Image("image", 32), Text("text", 16, small_run.tokenizer())],
        batch_size=8, rows=np.arange(8),
    ))  # fmt: skip
    losses = []
    for batch in batches[:2]:  # the third holds 5 of 8
        out = small_run.embed(batch, "image/embed", "text/embed", "logit/scale")
        logits = out["logit/scale"] * (out["image/embed"] @ out["text/embed"].T)
        rows = [np.log(np.exp(logits[i]).sum()) - logits[i, i] for i in range(8)]
        columns = [np.log(np.exp(logits[:, i]).sum()) - logits[i, i] for i in range(8)]
        losses.append(np.mean(rows + columns))
    metrics = build({"path": table, "batch_size": 8})(params)
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert metrics["loss/clip"] == metrics["loss"]
    assert metrics["examples"] == 16


def test_is_the_same_on_any_mesh(table):
    _, _, params = small_run.run()
    results = []
    for mesh in (make_mesh(devices=jax.devices()[:1]), make_mesh(), make_mesh(fsdp=4, tensor=2)):
        with jax.set_mesh(mesh):
            results.append(build({"path": table, "batch_size": 8})(params))
    assert results[1] == pytest.approx(results[0], rel=1e-6)
    assert results[2] == pytest.approx(results[0], rel=1e-6)


def test_a_batch_larger_than_the_source_is_refused(table):
    with pytest.raises(UserError, match="batch_size=24 is more than the 21 records"):
        build({"path": table, "batch_size": 24})


def test_a_batch_that_the_devices_do_not_divide_is_refused(table):
    with pytest.raises(UserError, match="batch_size=12 is not a multiple of the 8 devices"):
        build({"path": table, "batch_size": 12})
