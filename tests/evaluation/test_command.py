"""`mmjax eval`: which evaluators run, and that their results are printed and kept."""

import json

import pytest
import small_run

from mmjax import config as config_lib
from mmjax import evaluation
from mmjax.errors import UserError
from mmjax.evaluation import command


@pytest.fixture
def evals(tmp_path):
    path = small_run.write_table(tmp_path, [[text] for text in small_run.captions(9)])
    return {
        "pairs": config_lib.entry("evals", task="retrieval", path=path),
        "held": config_lib.entry("evals", task="loss", path=path, batch_size=8),
    }


def test_the_configs_evaluators_run_by_default(evals):
    assert command.choose(evals, None, None, ()) == evals


def test_a_task_picks_those_of_the_config(evals):
    assert list(command.choose(evals, "loss", None, ())) == ["held"]


def test_task_and_data_make_a_new_one(evals):
    specs = command.choose(evals, "retrieval", "new.csv", ("batch_size=32", "caption=title"))
    assert list(specs) == ["retrieval"]
    spec = specs["retrieval"]
    assert (spec.path, spec.batch_size, spec.caption) == ("new.csv", 32, "title")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "new.csv", ()), "--data needs --task"),
        (
            ("classification", None, ()),
            "no evaluator of task 'classification': give --task=TASK and --data",
        ),
        (("loss", None, ("batch_sice=3",)), r"evals\.held\.batch_sice.*batch_size"),
        (("loss", None, ("batch_size=many",)), r"evals\.held\.batch_size='many': a int is wanted"),
        (("loss", None, ("batch_size",)), "write KEY=VALUE"),
    ],
)
def test_what_cannot_run_is_said(evals, arguments, message):
    with pytest.raises(UserError, match=message):
        command.choose(evals, *arguments)


def test_results_are_printed_and_written(evals, tmp_path, monkeypatch, capsys):
    config, model, params = small_run.run()
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.evals = evals
    restored = (config, model, params, small_run.tokenizer())
    monkeypatch.setattr(command, "restore_for_inference", lambda workdir: restored)
    results = evaluation.run("run", json=str(tmp_path / "results.json"))
    assert results["held"]["examples"] == 8
    assert results["pairs"]["texts"] == 9
    assert json.loads((tmp_path / "results.json").read_text()) == results
    printed = capsys.readouterr().out
    assert "image_to_text/R@1" in printed
    assert f"{100 * results['pairs']['image_to_text/R@1']:.2f} %" in printed
