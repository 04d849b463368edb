"""What hangs is named, what moves is not."""

import time

from mmjax.runs import watchdog
from mmjax.runs.watchdog import Watchdog


def test_phase_that_hangs_is_named_with_host_step_and_place(monkeypatch):
    said = []
    monkeypatch.setattr(watchdog.log, "error", lambda text, *values: said.append(text % values))
    dog = Watchdog(2.0)
    for step in range(10):
        dog.enter("step", step)
        time.sleep(0.05)
    assert not said
    dog.enter("data", 10)
    until = time.monotonic() + 30
    while not said and time.monotonic() < until:
        time.sleep(0.1)
    dog.close()
    assert "host 0 (" in said[0]
    assert "step 10, phase data" in said[0]
    assert "test_phase_that_hangs" in said[0]
