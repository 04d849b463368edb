"""The examples of CONTRIBUTING.md are executed: together they train, evaluate, export and load."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from mmjax import config as config_lib
from mmjax import evaluation, objectives
from mmjax.data import sources
from mmjax.data.modalities import base as modalities
from mmjax.interop import formats, registry
from mmjax.models import parts

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


@pytest.fixture
def registries():
    """What is registered meanwhile is gone afterwards: other tests use the same names."""
    every = (parts.KINDS, modalities.KINDS, sources.KINDS, evaluation.KINDS,
             objectives.REGISTRY, registry.FORMATS)  # fmt: skip
    before = [dict(kinds) for kinds in every]
    yield
    for kinds, kept in zip(every, before, strict=True):
        kinds.clear()
        kinds.update(kept)


def test_the_examples_work_together(tmp_path, registries):
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(block, "CONTRIBUTING.md", "exec"), names)

    config = tiny.config()
    del config.model.image, config.objectives.clip
    config.model.text.vocab_size, config.total_steps, config.batch_size = 600, 2, 8
    config.model.sound = config_lib.entry("model", kind="series", width=24)
    of = ("sound", "text")
    config.objectives.tones = config_lib.entry("objectives", kind="clip", of=of)
    config.objectives.spread = config_lib.entry("objectives", kind="uniformity", of="sound", t=3.0)
    config.data.train.tones = config_lib.entry("data.train", kind="tones", path="16")
    config.data.tokenizer = "captions:600"
    config.evals.heard = config_lib.entry("evals", kind="spread", format="tones", path="8")
    state, logged = tiny.trained(config, tmp_path / "run")
    assert {"loss/tones", "loss/spread", "heard/mean_cosine"} <= logged.keys()
    assert "t = 2.0\n      Sharpness of the kernel. A number above 0." in config_lib.describe()

    alone = config_lib.default()
    alone.model = config.model.copy_and_resolve_references()
    del alone.model.text, alone.model.logit
    alone.model.name = "tones"
    params = {"sound": jax.tree.map(np.asarray, state.params["sound"])}
    registry.export(tmp_path / "out", "tones", config=alone, params=params)
    back = registry.open_weights(tmp_path / "out")
    assert back.config.model.to_dict() == alone.model.to_dict()
    jax.tree.map(np.testing.assert_array_equal, back.read(formats.shapes(alone.model)), params)
