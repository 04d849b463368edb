"""PyTorch and what needs it, as tests compare with them: `from pytorch import torch, transformers`.

Where setup.py's extra "test" leaves PyTorch out, a test that uses a name of it is skipped. Where it
should be there and is not, the import fails.
"""

import importlib.util
import sys

import pytest
import transformers as every_transformers

HERE = sys.version_info < (3, 12) or importlib.util.find_spec("torch") is not None
WHY = "no PyTorch: setup.py installs it for Python 3.11 only, where this test runs"


class Absent:
    """Stands for a module or function: the test that uses it is skipped, or the module that is
    being imported."""

    def __getattr__(self, name):
        if name.startswith("_"):  # pytest looks for some in all that a module has
            raise AttributeError(name)
        self()

    def __call__(self, *args, **kwargs):
        pytest.skip(WHY, allow_module_level=True)


class WithoutTorch:
    """transformers: what uses one of its models in PyTorch is skipped."""

    def __getattr__(self, name):
        found = getattr(every_transformers, name)
        return Absent() if "torch" in getattr(found, "_backends", ()) else found


if HERE:
    import torch
    import torch.nn.functional as F
    import transformers
    from safetensors.torch import save_file
else:
    torch, F, save_file = Absent(), Absent(), Absent()
    transformers = WithoutTorch()
