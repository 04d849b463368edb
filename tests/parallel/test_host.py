"""Freed memory is kept: in a process of its own, since the setting is for good."""

import subprocess
import sys

SCRIPT = """
import resource, sys
import jax, jax.numpy as jnp
from mmjax.parallel.host import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
step = jax.jit(lambda x: (jnp.sort(x) @ jnp.cos(x)).sum())
x = jnp.ones((2048, 2048))
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(faults)[2])
"""


def page_faults(mode: str) -> int:
    """New pages touched by a step with 32 MiB of temporaries."""
    return int(subprocess.check_output([sys.executable, "-c", SCRIPT, mode], text=True))


def test_a_step_reuses_the_memory_of_the_step_before():
    assert page_faults("keep") < page_faults("leave") / 10
