"""Host memory of runs on CPU devices."""

import ctypes
import sys
from importlib.util import find_spec

import jax

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # parameters of glibc's mallopt(3)


def keep_freed_memory() -> None:
    """On CPU, lets a step reuse the memory that the one before it freed.

    XLA allocates the temporaries of a step anew. glibc gives blocks of their size back to the
    kernel, which zeroes every page again when it is touched: an eighth of a ViT-B/32 step
    (`benchmarks/train_step.py`). Works only before JAX starts its threads, so call it first; does
    nothing where there may be an accelerator, or another C library.
    """
    if jax.config.jax_platforms != "cpu" and (find_spec("jax_plugins") or find_spec("libtpu")):
        return
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, 1)  # other heaps hold no large blocks and fall back to mmap
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
