"""A whole run: interruption, resume, damage, refusal."""

import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mmjax import config as config_lib
from mmjax import data, models
from mmjax.core.optim import schedule
from mmjax.errors import UserError
from mmjax.runs import workdir as workdir_lib
from mmjax.runs.goodput import Account
from mmjax.runs.workdir import read_config, restore_for_inference
from mmjax.training import assemble, loop, prepare


def small_config(**optim):
    config = config_lib.default()
    config.model = models.zoo.config("tiny")
    config.objectives.clip = config_lib.entry("objectives")
    config = config_lib.smoke(config)
    config.total_steps = 20
    config.checkpoint.update(every=5, keep=2)
    config.log.update(every=1, tensorboard=False)
    config.model.image.patch_dropout = 0.25  # so that the step's own randomness is part of it
    config.data.augment.update(crop_scale=(0.5, 1.0), crop_ratio=(0.7, 1.4), flip=0.5)
    config.optim.update(ema=0.9, warmup_steps=3, **optim)
    return config


def interrupt_after(monkeypatch, steps):
    """Makes the next run stop, as by Ctrl-C, when it asks for batch `steps` + 1."""
    make = data.train_batches

    def train_batches(*args, **kwargs):
        batches = make(*args, **kwargs)
        yield from itertools.islice(batches, steps)
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "train_batches", train_batches)


def metrics_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "loss" in line}


def assert_same_bits(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    """A run of 20 steps without interruption: (workdir, final state)."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:  # a relative path, as most people type it
        patch.chdir(folder)
        return folder / "run", loop.train(small_config(), "run")


def test_resumed_run_is_bit_equal(whole_run, tmp_path, monkeypatch):
    whole, straight = whole_run
    with monkeypatch.context() as patch:
        interrupt_after(patch, 10)
        with pytest.raises(KeyboardInterrupt):
            loop.train(small_config(), tmp_path)
    assert max(metrics_of(tmp_path)) == 10
    resumed = loop.train(small_config(), tmp_path)
    assert int(resumed.step) == 20
    assert_same_bits(resumed, straight)
    losses = [{s: m["loss"] for s, m in metrics_of(w).items()} for w in (whole, tmp_path)]
    assert losses[0] == losses[1]


def test_adjusted_run_takes_the_new_rate_from_there_on(whole_run, tmp_path, capsys):
    shutil.copytree(whole_run[0], tmp_path / "run")
    config = small_config(lr=1e-4)
    config.total_steps = 22
    with pytest.raises(UserError, match="add --adjust to resume with the new value"):
        loop.train(config, tmp_path / "run")
    loop.train(config, tmp_path / "run", adjust=True)
    ours, theirs = metrics_of(tmp_path / "run"), metrics_of(whole_run[0])
    assert {step: ours[step] for step in theirs} == theirs
    rate = schedule(config.optim, 22)
    assert [ours[s]["lr"] for s in (21, 22)] == pytest.approx(
        [float(rate(s)) for s in (20, 21)], rel=1e-5
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "config.optim.lr: 0.001 until step 20, 0.0001 from there on" in said
    assert read_config(tmp_path / "run").optim.lr == 1e-4
    # An adjusted run that is interrupted resumes by the adjusted command.
    loop.train(config, tmp_path / "run")
    assert "finished at step 22" in capsys.readouterr().out


def test_relative_workdir_is_the_same_run(whole_run, monkeypatch):
    workdir, state = whole_run
    monkeypatch.chdir(workdir.parent)
    assert_same_bits(restore_for_inference(workdir.name)[2], state.ema)
    assert_same_bits(loop.train(small_config(), workdir.name), state)


def test_finished_run_trains_no_further(whole_run):
    workdir, state = whole_run
    before = (workdir / "metrics.jsonl").read_text()
    assert_same_bits(loop.train(small_config(), workdir), state)
    assert (workdir / "metrics.jsonl").read_text() == before


def test_checkpoints_keep_the_newest(whole_run):
    steps = {p.name for p in (whole_run[0] / "checkpoints").iterdir() if p.name.isdigit()}
    assert steps == {"15", "20"}


def test_inference_reads_the_average(whole_run):
    workdir, state = whole_run
    config, model, params, tokenizer = restore_for_inference(workdir)
    assert_same_bits(params, state.ema)
    assert config.to_dict() == small_config().to_dict()
    assert model.module("text").vocab_size >= tokenizer.vocab_size


def test_damaged_checkpoint_falls_back_and_is_kept_aside(whole_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole_run[0], workdir)
    damaged, aside = workdir / "checkpoints" / "20", workdir / "checkpoints" / "unreadable"
    (aside / "20").mkdir(parents=True)  # from an earlier accident
    for file in damaged.rglob("*"):
        if file.is_file() and file.stat().st_size > 200:
            file.write_bytes(b"damaged")
    state = loop.train(small_config(), workdir)  # again from 15
    assert_same_bits(state, whole_run[1])
    assert {path.name for path in aside.iterdir()} == {"20", "20-2"}
    assert damaged.is_dir()


def test_all_checkpoints_damaged_is_an_error_and_deletes_nothing(whole_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole_run[0], workdir)
    for file in (workdir / "checkpoints").rglob("*"):
        if file.is_file() and file.stat().st_size > 200:
            file.write_bytes(b"damaged")
    with pytest.raises(UserError, match="None of the checkpoints"):
        loop.train(small_config(), workdir)
    assert {p.name for p in (workdir / "checkpoints").iterdir()} >= {"15", "20"}


def test_another_config_is_refused(whole_run):
    said = r"config\.optim\.b1=0\.9, and this command has 0\.8.*another --workdir"
    with pytest.raises(UserError, match=said):
        loop.train(small_config(b1=0.8), whole_run[0])


def test_mesh_may_change_on_resume(whole_run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 10)
        with pytest.raises(KeyboardInterrupt):
            loop.train(small_config(), tmp_path)
    config = small_config()
    config.mesh.update(data=2, fsdp=1, tensor=4)
    loop.train(config, tmp_path)
    ours, theirs = metrics_of(tmp_path), metrics_of(whole_run[0])
    assert ours[11]["loss"] == pytest.approx(theirs[11]["loss"], rel=1e-5)


def test_run_that_diverges_stops_and_keeps_its_checkpoints(tmp_path):
    config = small_config(max_nonfinite=3)
    config.objectives.clip.weight = 3e38  # times a loss above 1.2 no float32
    with pytest.raises(UserError, match=r"not finite in the 3 steps up to 3.*lower config"):
        loop.train(config, tmp_path)
    named = json.loads((tmp_path / "skipped_batches.json").read_text())
    assert [(step, len(records)) for step, records in named.items()] == [
        (str(step), config.batch_size) for step in (1, 2, 3)
    ]
    assert named["1"][0].startswith("generated: ")


def test_run_without_one_good_step_fails_however_short(tmp_path):
    config = small_config()
    config.update(total_steps=2)
    config.objectives.clip.weight = 3e38  # times a loss above 1.2 no float32
    with pytest.raises(UserError, match="not finite in the 2 steps up to 2"):
        loop.train(config, tmp_path)


def test_no_more_than_two_steps_are_sent_ahead(tmp_path, monkeypatch):
    """Who is asked to end saves after the steps that were sent: they should be few."""
    config = small_config()
    config.update(total_steps=8)
    config.log.every = 100
    losses, behind, make = [], [], assemble.Parts.step

    def step(parts):
        compiled = make(parts)

        def send(state, batch):
            behind.append(sum(not loss.is_ready() for loss in losses))
            state, metrics = compiled(state, batch)
            losses.append(metrics["loss"])
            return state, metrics

        return send

    monkeypatch.setattr(assemble.Parts, "step", step)
    loop.train(config, tmp_path)
    assert len(behind) == 8
    assert max(behind) <= loop.AHEAD


def test_best_checkpoint_by_a_metric_that_is_not_measured(tmp_path):
    config = small_config()
    config.evals.retr = config_lib.entry("evals", kind="retrieval", path="generated:8", every=5)
    config.checkpoint.best = "retr/image_to_text_recall@1"
    with pytest.raises(UserError, match=r"retr does not measure .*nearest: retr/image_to_text/R@1"):
        loop.train(config, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()  # before the first step


def test_vocabulary_smaller_than_the_tokenizers(tmp_path):
    config = small_config()
    config.model.text.vocab_size = 520
    with pytest.raises(UserError, match=r"config.model.text.vocab_size=520 is smaller.* or more"):
        loop.train(config, tmp_path)
    # Nothing was trained yet, so the same workdir takes the mended config.
    mended = small_config()
    mended.total_steps = 1
    loop.train(mended, tmp_path)
    assert read_config(tmp_path).to_dict() == mended.to_dict()


def test_objective_that_the_model_cannot_serve(tmp_path):
    config = small_config()
    config.objectives = {"siglip": config_lib.entry("objectives")}
    with pytest.raises(
        UserError, match=r"siglip needs .* 'logit/bias'.*model\.logit\.bias, e\.g\. -10"
    ):
        loop.train(config, tmp_path)


def test_unwritable_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        loop.train(small_config(), tmp_path / "file" / "run")


def test_bucket_that_cannot_be_reached_is_said_before_anything_compiles(monkeypatch):
    def unreachable(_):
        raise ConnectionError("no route to host\nand a page of details")

    monkeypatch.setattr(workdir_lib, "checkpoint_steps", unreachable)
    monkeypatch.setattr(prepare, "init_state", lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(
        UserError, match=r"--workdir=gs:/.*/run cannot be written \(no route to host"
    ):
        loop.train(small_config(), "gs://bucket/run")


def mortal(lives):
    """Batches as of worker processes that die after `lives[i]` of them, at the i-th start."""
    starts = iter(lives)

    def make(step):
        yield from range(step, step + next(starts))
        raise RuntimeError("Worker process was terminated unexpectedly (code -9). And so on")

    return make


def test_workers_that_die_are_started_again():
    make = mortal([1, 3, 1, 5])  # the first batch of each start is not theirs
    batches = prepare.unfailing(make, 7)
    assert list(itertools.islice(batches, 10)) == list(range(7, 17))


def test_workers_that_die_before_every_batch_end_the_run():
    batches = prepare.unfailing(mortal([4, 1, 1, 9]), 0)
    with pytest.raises(UserError, match=r"step 7: no batch .* 3 times .*code -9.*workers"):
        list(batches)


def test_a_script_that_its_workers_would_run_again_ends_with_the_remedy(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_loop
config = test_loop.small_config()
config.data.workers = 1
test_loop.loop.train(config, {str(tmp_path / "run")!r})
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'put the call of train() under `if __name__ == "__main__":`' in done.stderr
    assert "is in use by" not in done.stderr
    assert "no batch from the data's workers, 3 times" in done.stderr.splitlines()[-1]


def test_lines_tell_where_the_time_went_over_a_restart(tmp_path, monkeypatch):
    config = small_config()
    config.evals.seen = config_lib.entry("evals", kind="retrieval", path="generated:8", every=10)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 12)  # of which 10 are saved
        with pytest.raises(KeyboardInterrupt):
            loop.train(config, tmp_path)
    pause = time.time()
    time.sleep(1.0)
    pause = time.time() - pause
    loop.train(config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    timed = [row for row in rows if "time" in row]
    account = Account(timed)
    begun = timed[0]["time"] - timed[0]["seconds/start"]
    assert sum(account.seconds.values()) == pytest.approx(timed[-1]["time"] - begun, rel=1e-3)
    assert account.seconds["away"] >= pause
    again = [row["seconds/steps"] for row in timed[:12] if row["step"] > 10]
    assert account.seconds["lost"] == pytest.approx(sum(again), rel=1e-6)
    assert min(account.seconds[c] for c in ("steps", "start", "eval", "save", "lost")) > 0
    assert timed[-1]["goodput"] == pytest.approx(account.goodput())
    assert timed[-1]["goodput"] < 0.9


def test_the_asked_steps_are_traced(tmp_path):
    config = small_config()
    config.total_steps, config.profile.steps = 4, "2:4"
    loop.train(config, tmp_path)
    (file,) = (tmp_path / "profile").rglob("*.xplane.pb")
    trace = jax.profiler.ProfileData.from_file(str(file))
    events = [e for plane in trace.planes for line in plane.lines for e in line.events]
    steps = {dict(e.stats)["step_num"] for e in events if e.name == "train"}
    assert steps == {2, 3}
    assert len(events) > 100
    assert sum(row.get("seconds/profile", 0) for row in metrics_of(tmp_path).values()) > 0
