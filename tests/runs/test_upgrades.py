"""A workdir of every earlier version resumes, and its weights are read."""

import importlib.util
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

import mmjax
from mmjax import config as config_lib
from mmjax import config_check
from mmjax.errors import UserError
from mmjax.models import zoo
from mmjax.runs import upgrades
from mmjax.runs.workdir import read_config
from mmjax.schema import leaves
from mmjax.training import loop

OLD = Path(__file__).parent / "old"
# Of version 0: the smoke form of every recipe, and `config.model` of every architecture.
CONFIGS = json.loads((OLD / "configs_0.json").read_text())
RECIPES = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("version_0")
    with tarfile.open(OLD / "version_0.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    return folder


def test_a_run_of_version_0_goes_on(unpacked, tmp_path):
    workdir = shutil.copytree(unpacked, tmp_path / "run")
    config = config_lib.complete(read_config(workdir))
    loop.train(config, str(workdir))
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    expected = json.loads((OLD / "version_0.json").read_text())
    for step, losses in expected["losses"].items():
        found = next(row for row in rows if row["step"] == int(step) and "loss" in row)
        for name, value in losses.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=f"{name} of {step}")
    last = next(row for row in reversed(rows) if "retrieval/images" in row)
    for name, value in expected["retrieval"].items():
        np.testing.assert_allclose(last[name], value, rtol=1e-4, err_msg=name)
    assert json.loads((workdir / "config.json").read_text())["version"] == upgrades.VERSION


def test_weights_of_version_0_are_read(unpacked):
    loaded = mmjax.load(str(unpacked))
    assert loaded.config.data.copies == 0
    assert loaded.embed_texts(["a red circle"]).shape == (1, loaded.config.model.embed_dim)


def test_every_key_of_version_0_is_one_of_today(unpacked):
    config = read_config(unpacked)
    assert config_lib.complete(config).to_dict().keys() == config.to_dict().keys()
    for path, _ in config_lib.schema.leaves(config):
        config_lib.key_of(path, config)
    assert config.evals.retrieval.kind == "retrieval"
    assert "shots" not in config.evals.retrieval


@pytest.mark.parametrize("name", CONFIGS["recipes"])
def test_recipes_of_version_0_are_those_of_today(name):
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    today = config_lib.complete(module.get_config("smoke"))
    upgraded = config_lib.from_json(json.dumps(CONFIGS["recipes"][name]))
    config_check.validate(upgraded)
    # Smoke forms had one source of this name; they have those of the recipe today.
    (before,) = (dict(leaves(spec)) for spec in upgraded.data.train.values())
    assert list(upgraded.data.train) == ["generated"]
    for spec in today.data.train.values():
        assert dict(leaves(spec)) == before | {"weight": spec.weight}
    if name in ("siglip_b16", "lit_b16"):  # they are evaluated as big_vision does, since 0.2
        upgraded.data.update(resize="squash", interpolation="bilinear")
    for config in (upgraded, today):
        del config.data.train
    assert dict(leaves(upgraded)) == dict(leaves(today))


def of_version_0(model):
    return {"model": model, "data": {"views": 0, "train": {}}, "objectives": {}, "evals": {}}


@pytest.mark.parametrize("name", CONFIGS["models"])
def test_models_of_version_0_are_those_of_today(name):
    upgraded = config_lib.from_json(json.dumps(of_version_0(CONFIGS["models"][name])))
    assert upgraded.model.to_dict() == zoo.config(name).to_dict()


def test_a_bottleneck_of_version_0_keeps_its_tokens():
    model = CONFIGS["models"]["tiny"] | {"name": "own"}
    model["fusion"] = model["fusion"] | {"style": "bottleneck", "depth": 3, "n_bottlenecks": 7}
    upgraded = config_lib.from_json(json.dumps(of_version_0(model))).model
    today = zoo.config("tiny")
    today.name = "own"
    today.fusion = config_lib.entry("model", kind="bottleneck", depth=3, n_bottlenecks=7)
    assert upgraded.to_dict() == today.to_dict()


def test_keys_that_came_later_in_version_0_may_be_missing():
    early = json.loads(json.dumps(CONFIGS["recipes"]["clip_vit_b16"]))
    for key in ("towers", "fusion", "logit_bias_init"):
        del early["model"][key]
    del early["model"]["image"]["kind"], early["data"]["views"]
    for source in early["data"]["train"].values():
        del source["format"], source["run"]
    upgraded = config_lib.from_json(json.dumps(early))
    whole = config_lib.from_json(json.dumps(CONFIGS["recipes"]["clip_vit_b16"]))
    assert dict(leaves(upgraded)) == dict(leaves(whole))


def test_a_later_version_is_refused():
    text = json.dumps({"version": upgrades.VERSION + 1})
    with pytest.raises(UserError, match=f"reads up to {upgrades.VERSION}: use the mmjax that"):
        upgrades.load(text)
