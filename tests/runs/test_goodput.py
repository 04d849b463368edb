"""Where the time of a run went, over its restarts, by a second count of the same moments."""

import json
import random
import time

import pytest
from etils import epath

from mmjax import config as config_lib
from mmjax.runs.goodput import Account, Clock, read_rows
from mmjax.runs.metrics import MetricWriter


class Step:
    """A step that the devices finish at a time of its own."""

    def __init__(self, seconds: float):
        self.end = time.perf_counter() + seconds

    def block_until_ready(self):
        time.sleep(max(0.0, self.end - time.perf_counter()))


def wait(clock: Clock, seconds: float) -> float:
    began = time.perf_counter()
    time.sleep(seconds)
    return clock.waited(began)


def test_waiting_costs_what_the_devices_are_idle():
    clock = Clock()
    clock.sent(Step(0.0))
    clock.read(1)
    clock.sent(Step(0.6))
    assert wait(clock, 0.2) == 0.0, "the devices still had something to do"
    assert wait(clock, 0.7) == pytest.approx(0.3, abs=0.08)
    clock.sent(Step(0.1))
    with clock.spend("save"):
        time.sleep(0.3)
    assert wait(clock, 0.2) == pytest.approx(0.2, abs=0.08)
    found = clock.read(1)
    assert found["seconds/data"] == pytest.approx(0.5, abs=0.15)
    assert found["seconds/save"] == pytest.approx(0.3, abs=0.08)
    assert found["seconds/steps"] == pytest.approx(0.6, abs=0.15)
    clock.close()


def test_everything_before_the_first_line_is_the_start():
    clock = Clock()
    clock.sent(Step(0.0))
    wait(clock, 0.1)
    first = clock.read(1)
    assert set(first) == {"time", "seconds/start", "seconds/steps", "goodput"}
    assert first["seconds/start"] >= 0.1
    assert first["seconds/steps"] == 0.0
    clock.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_run_of_many_restarts_adds_up(seed):
    """The oracle knows for each second of a made-up run what it was; steps take a second each."""
    rng = random.Random(seed)
    now, saved, rows, of_step = 1000.0, 0, [], {}
    truth = dict.fromkeys(("start", "eval", "save", "lost", "away"), 0.0)
    every = rng.randint(1, 5)
    begun_at = now
    for life in range(rng.randint(1, 6)):
        if life:
            truth["lost"] += sum(of_step.pop(s, 0) for s in [s for s in of_step if s > saved])
        step, line = saved, saved + 1
        start, spent = rng.uniform(1, 20), {}
        now += start
        truth["start"] += start
        step += 1  # its time is part of the start
        rows.append({"step": step, "time": now, "seconds/start": start, "seconds/steps": 0.0})
        pending = {}
        for _ in range(rng.randint(0, 30)):
            step += 1
            now += 1.0
            pending[step] = 1.0
            if rng.random() < 0.2:
                kind = rng.choice(["eval", "save"])
                spent[kind] = spent.get(kind, 0.0) + 2.5
                now += 2.5
                if kind == "save":
                    saved = step
            if step % every == 0:
                seconds = {f"seconds/{k}": v for k, v in spent.items()}
                rows.append({"step": step, "loss": 1.0, "time": now,
                             "seconds/steps": float(len(pending)), **seconds})  # fmt: skip
                for kind, value in spent.items():
                    truth[kind] += value
                of_step |= pending
                pending, spent, line = {}, {}, step
        # What came after the last line was never written down; what was saved then is not lost.
        saved = min(saved, line)
        died = now
        now += rng.uniform(0, 100)
        truth["away"] += now - rows[-1]["time"]
    truth["away"] -= now - rows[-1]["time"]  # the last one did not come back
    del died
    account = Account(rows)
    assert account.seconds["steps"] == pytest.approx(sum(of_step.values()), abs=1e-6)
    for cause, seconds in truth.items():
        assert account.seconds[cause] == pytest.approx(seconds, abs=1e-6), cause
    total = rows[-1]["time"] - begun_at
    assert sum(account.seconds.values()) == pytest.approx(total, abs=1e-6)
    assert account.goodput() == pytest.approx(sum(of_step.values()) / total)


def test_half_a_line_of_a_killed_process_swallows_no_other(tmp_path):
    config = config_lib.default()
    config.log.tensorboard = False
    whole = json.dumps({"step": 1, "loss": 2.0}) + "\n"
    (tmp_path / "metrics.jsonl").write_text(whole + '{"step": 2, "lo')
    writer = MetricWriter(epath.Path(tmp_path), config.log, config)
    writer.log(2, {"loss": 1.5})
    writer.close()
    assert read_rows(epath.Path(tmp_path)) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]
