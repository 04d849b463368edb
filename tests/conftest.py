"""Eight CPU devices for every test, set before JAX starts: nothing is skipped for lack of any."""

import os

# XLA's CPU collectives block a pool thread each until all devices have joined; two at a time on
# eight devices starve a pool of the default size, and the process aborts after 40 seconds.
os.environ.setdefault("PJRT_NPROC", "256")

# libtpu is here to compile for TPUs, not to look for one.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

jax.config.update("jax_num_cpu_devices", 8)
