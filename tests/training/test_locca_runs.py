"""A whole run of LocCa beside SigLIP on generated regions; make test-long."""

import json

import numpy as np
import pytest

from mmjax import config as config_lib
from mmjax import models
from mmjax.config import entry
from mmjax.training import loop

PASSES = ("caption", "aref", "gcap")


def locca():
    """As docs/guide/objectives.md has it, in its smoke form."""
    config = config_lib.default()
    config.model = models.zoo.config("SigLIP2-B/16-224")
    config.model.words = entry(
        "model", kind="transformer", depth=0, width=768, heads=12, mlp_dim=3072,
        vocab_size=256_000, mlm_head=True, boxes=True,
    )  # fmt: skip
    config.model.decoder = entry("model", kind="cross", of=("image", "words"), depth=6)
    config.objectives = {"siglip": entry("objectives")}
    config.objectives.locca = entry("objectives", of="decoder", text="words")
    config.evals.boxes = entry("evals", kind="referring", path="refs.p", every=3)
    config.optim.lr = 1e-3
    return config_lib.smoke(config)


def test_smoke_gives_sources_and_evaluators_regions():
    config = locca()
    assert config.data.train.generated.boxes == config.evals.boxes.boxes == "generated"


@pytest.mark.long
def test_a_run_learns_says_what_of_each_pass_and_is_evaluated(tmp_path):
    config = locca()
    config.update(total_steps=30)
    config.evals.boxes.every = config.checkpoint.every = 30
    loop.train(config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = {p: [r[f"locca/{p}_loss"] for r in rows if f"locca/{p}_loss" in r] for p in PASSES}
    for found in losses.values():
        assert len(found) == 16  # steps 1, 2, 4, …
        assert np.mean(found[-3:]) < np.mean(found[:3]) - 0.5
    (box,) = (row for row in rows if "boxes/accuracy" in row)
    assert box["boxes/expressions"] == box["boxes/images"] == 24
    counted = [row for row in rows if "data/boxes" in row][-1]
    assert counted["data/boxes"] >= counted["data/boxes_dropped"] >= 0  # none: written as 0
    assert counted["data/boxes"] >= 30 * 16
