"""Eight CPU devices for every test, set before JAX starts: nothing is skipped for lack of any."""

import gc
import os
from pathlib import Path

# XLA's CPU collectives block a pool thread each until all devices have joined; two at a time on
# eight devices starve a pool of the default size, and the process aborts after 40 seconds.
os.environ.setdefault("PJRT_NPROC", "256")

# libtpu is here to compile for TPUs, not to look for one.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="session")
def tmp_path_factory(tmp_path_factory):
    """Each folder is alone in another: the images of a table are looked for beside its folder, too,
    and would be found in the folders of other tests."""
    make = tmp_path_factory.mktemp

    def alone(*arguments, **options):
        path = make(*arguments, **options) / "alone"
        path.mkdir()
        return path

    tmp_path_factory.mktemp = alone
    return tmp_path_factory


# Files of more than half a minute, the longest first: started last, one would be waited for alone.
FIRST = (
    "docs/test_notebooks", "training/test_recipes", "test_output", "training/test_loop",
    "teachers/test_runs", "faults/test_process", "core/test_together",
    "objectives/test_contrastive", "training/test_mixed_media", "interop/test_every_key",
    "models/test_video_tower", "core/test_views", "core/test_step", "faults/test_many",
    "interop/test_huggingface", "test_third_modality", "objectives/test_mil_nce",
    "models/test_xclip_tower", "models/test_divided", "runs/test_upgrades",
    "training/test_one_modality", "interop/test_open_clip",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    order = {Path(__file__).parent / f"{name}.py": n for n, name in enumerate(FIRST)}
    assert all(path.exists() for path in order), "FIRST names a file that is not there"
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_collection_finish(session):
    """Tracing makes many objects that live on: by default Python looks through them every 700, and
    through the libraries' millions again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
