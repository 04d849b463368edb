"""`mmjax eval`: which evaluators run, and that their results are printed and kept."""

import csv
import io
import json

import pytest
import rich
import small_run

from mmjax import config as config_lib
from mmjax import evaluation
from mmjax.errors import UserError
from mmjax.evaluation import command, progress, report
from mmjax.interop import registry
from mmjax.models import Graph


@pytest.fixture
def evals(tmp_path):
    path = small_run.write_table(tmp_path, [[text] for text in small_run.captions(9)])
    return {
        "pairs": config_lib.entry("evals", kind="retrieval", path=path),
        "held": config_lib.entry("evals", kind="loss", path=path, batch_size=8),
    }


def test_the_configs_evaluators_run_by_default(evals):
    assert command.choose(evals, None, None, {}) == evals


def test_a_task_picks_those_of_the_config(evals):
    assert list(command.choose(evals, "loss", None, {})) == ["held"]


def test_task_and_data_make_a_new_one(evals):
    specs = command.choose(evals, "retrieval", "new.csv", {"batch_size": "32", "caption": "title"})
    assert list(specs) == ["retrieval"]
    spec = specs["retrieval"]
    assert (spec.path, spec.batch_size, spec.caption) == ("new.csv", 32, "title")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "new.csv", {}), "--data needs --task"),
        (
            ("classification", None, {}),
            "no evaluator of task 'classification': give --task=TASK and --data",
        ),
        (("loss", None, {"batch_sice": 3}), r"evals\.held\.batch_sice.*batch_size"),
        (
            ("loss", None, {"batch_size": "many"}),
            r"evals\.held\.batch_size='many' must be an integer",
        ),
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
    files = [tmp_path / f"results{suffix}" for suffix in (".json", ".csv", ".md")]
    results = evaluation.evaluate("run", output=files)
    assert results["held"]["examples"] == 8
    assert results["pairs"]["texts"] == 9
    _check_files(results, *(file.read_text() for file in files))
    rich.print(report.table(results))
    printed = capsys.readouterr().out
    assert "image_to_text/R@1" in printed
    assert f"{100 * results['pairs']['image_to_text/R@1']:.2f} %" in printed


def _check_files(results, as_json, as_csv, as_markdown):
    recall = results["pairs"]["image_to_text/R@1"]
    read = json.loads(as_json)
    assert {name: {k: v for k, v in found.items() if not k.endswith("95")}
            for name, found in read.items()} == results  # fmt: skip
    assert read["pairs"]["image_to_text/R@1/low95"] == recall.low <= recall <= recall.high
    rows = {(row["evaluator"], row["metric"]): row for row in csv.DictReader(io.StringIO(as_csv))}
    row = rows["pairs", "image_to_text/R@1"]
    assert [float(row[k]) for k in ("value", "low95", "high95")] == [
        recall, recall.low, recall.high,
    ]  # fmt: skip
    assert rows["held", "loss"]["low95"] == ""
    assert len(rows) == sum(map(len, results.values()))
    cell = f"{100 * recall:.2f} % ({100 * recall.low:.2f}–{100 * recall.high:.2f})"
    assert f"| pairs | {cell} |" in as_markdown
    assert "| held | " in as_markdown


def test_a_suite_is_a_file_of_evaluators(tmp_path):
    path = small_run.write_table(tmp_path, [["a cat"], ["a dog"]])
    (tmp_path / "suite.yaml").write_text(
        "coco: {kind: retrieval, path: pairs.csv}\n"
        "digits:\n  kind: probe\n  path: tfds://mnist\n  shots: [1, 2]\n  allow_skips: true\n"
    )
    specs = command.choose({}, "suite", str(tmp_path / "suite.yaml"), {"batch_size": "32"})
    assert {name: spec.kind for name, spec in specs.items()} == {
        "coco": "retrieval", "digits": "probe",
    }  # fmt: skip
    assert specs["coco"].path == path
    digits = specs["digits"]
    assert (digits.path, digits.shots, digits.allow_skips) == ("tfds://mnist", (1, 2), True)
    assert specs["coco"].batch_size == digits.batch_size == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"suite\.yaml: cannot be read"),
        ("a: {", "is no YAML"),
        ("a: retrieval", r"write NAME: \{kind: …, path: …\}"),
        (
            "a: {task: loss}",
            r"evals\.a has no kind, .* set config\.evals\.a\.kind to one of .*loss",
        ),
        ("loss: {pth: b}", r"evals\.loss\.pth.*evals\.loss\.path"),
        ("retrieval: {k: 3}", r"evals\.retrieval\.k: there is no such key"),
        ("knn: {k: many}", r"evals\.knn\.k='many' must be an integer"),
        ("knn: {allow_skips: 3}", r"evals\.knn\.allow_skips=3 must be true or false"),
    ],
)
def test_a_suite_that_is_wrong_is_said(tmp_path, text, message):
    if text is not None:
        (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        command.choose({}, "suite", str(tmp_path / "suite.yaml"), {})


@pytest.mark.parametrize(
    ("file", "message"), [("a.txt", r"ends in \.json, \.csv or \.md"), ("no/a.md", "no folder no")]
)
def test_where_results_cannot_go_is_said_first(file, message):
    with pytest.raises(UserError, match=message):
        evaluation.evaluate("no run", output=[file])


def test_bars_are_shown_on_a_terminals_stderr_only_when_asked_for(capsys, monkeypatch):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    assert list(progress.track(range(3), 20, 8, "images")) == [0, 1, 2]
    with progress.shown():
        assert list(progress.track(range(3), 20, 8, "images")) == [0, 1, 2]
        assert progress._BARS.get().tasks[0].completed == 20
        assert progress._BARS.get().live.is_started
    assert capsys.readouterr().out == ""


def test_a_file_has_no_bars():
    with progress.shown():
        assert not progress._BARS.get().live.is_started


def test_a_notebook_has_no_bars(monkeypatch):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with progress.shown():
        assert list(progress.track(range(3), 20, 8, "images")) == [0, 1, 2]
        assert not progress._BARS.get().live.is_started


def test_foreign_weights_are_evaluated(evals, tmp_path):
    """A transformers folder: the same numbers as the model that it was written from."""
    config, model, params = small_run.run()
    tokenizer = small_run.tokenizer()
    content = {"config": config, "params": params, "tokenizer": tokenizer}
    registry.export(tmp_path / "clip", "huggingface", **content)
    options = {"task": "retrieval", "data": evals["pairs"].path, "batch_size": 8}
    found = evaluation.evaluate(weights=str(tmp_path / "clip"), **options)["retrieval"]
    spec = {**evals["pairs"], "batch_size": 8}
    expected = evaluation.build("r", spec, evaluation.Subject.of(config, model, tokenizer))(params)
    assert found == expected


@pytest.mark.parametrize("both", [{}, {"workdir": "a", "weights": "b"}])
def test_either_a_run_or_weights_are_named(both):
    with pytest.raises(UserError, match="either --workdir=DIR of a run or --weights=PATH"):
        evaluation.evaluate(**both)


def test_a_model_without_texts_says_so(evals):
    config, model, _ = small_run.run()
    textless = Graph({name: part for name, part in model.parts.items() if name != "text"})
    with pytest.raises(UserError, match="this model has no tokenizer"):
        evaluation.build("r", evals["pairs"], evaluation.Subject.of(config, model, None))
    with pytest.raises(UserError, match="this model has no part 'text'"):
        evaluation.build("r", evals["pairs"], evaluation.Subject.of(config, textless, None))
