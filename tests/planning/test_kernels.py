"""Attention kernels in a whole train step, by the compilers of TPUs and GPUs (`make test-pods`)."""

import re

import pytest

from mmjax import config as config_lib
from mmjax.models import zoo
from mmjax.parallel.hardware import describe
from mmjax.planning.compile import compile_step

KERNEL = 'custom_call_target="tpu_custom_call"'  # of Pallas: here only splash is one


def program(topology, implementation, size, fusion=None, **text):
    """The compiled step of a small CLIP on `size`² pixels in patches of 16, on two layers; `text`
    are keys of its text tower; with a `fusion` of that kind it learns to match, too."""
    config = config_lib.default()
    config.model = zoo.config("tiny")
    config.model.text.update(text)
    config.model.dtype = "bfloat16"
    config.model.image.update(size=size, patch_size=16, width=128, heads=2)
    for tower in (config.model.image, config.model.text):
        tower.update(attention=implementation, unroll=False)
    config.objectives.clip = config_lib.entry("objectives")
    if fusion:
        config.model.fusion = config_lib.entry("model", kind=fusion, depth=1)
        config.objectives.matching = config_lib.entry("objectives", negatives="uniform")
    config.batch_size = 16
    return compile_step(config, describe(topology)).text


def cudnn_calls(text):
    """Of each of cuDNN's attention calls in a program: the shapes of its results."""
    calls = {}
    for results, target in re.findall(
        r"= \((.*?)\) custom-call\(.*custom_call_target=\"(__cudnn\$fmha\w+)\"", text
    ):
        calls.setdefault(target, []).append(re.findall(r"\w+\[[\d,]*\]", results))
    return calls


@pytest.mark.pods
def test_long_image_sequences_take_splash_on_tpus():
    text = program("v5e:2x2", "auto", 512)  # 1,025 tokens
    assert KERNEL in text
    assert KERNEL not in program("v5e:2x2", "auto", 224)  # 197 tokens


@pytest.mark.pods
@pytest.mark.parametrize("size", [224, 512])
def test_splash_compiles_for_padded_lengths(size):
    assert KERNEL in program("v5e:2x2", "splash", size)


@pytest.mark.gpus
@pytest.mark.parametrize("implementation", ["auto", "cudnn"])
@pytest.mark.parametrize(
    "tower",
    [
        {"context_length": 77},  # causal
        {"context_length": 77, "causal": False, "pool": "last"},
        {"context_length": 77, "mask_padding": True},
        {"causal": False, "mask_padding": True, "pool": "cls"},
    ],
)
def test_gpus_take_cudnn_without_a_bias(implementation, tower):
    """A bias would be a mask's, and have a gradient that nobody asks for (jax 0.10)."""
    calls = cudnn_calls(program("h100:1x2", implementation, 224, **tower))
    forward, backward = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"
    assert calls.keys() == {forward, backward}
    assert all(len(results) == 4 for results in calls[backward])  # of q, k and v, and a workspace
    assert len(calls[backward]) == 2  # one a tower


@pytest.mark.gpus
@pytest.mark.parametrize("fusion", ["concat", "cross", "bottleneck"])
def test_fusions_take_cudnn_without_a_bias(fusion):
    text = {"context_length": 77, "causal": False, "mask_padding": True, "pool": "cls"}
    calls = cudnn_calls(program("h100:1x2", "auto", 224, fusion=fusion, **text))
    assert calls.keys() == {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}


@pytest.mark.gpus
def test_masks_with_holes_stay_a_bias():
    """open_clip's mask is of no prefix: lengths would change its models."""
    tower = {"pool": "appended", "causal": True}
    assert "__cudnn$fmhaScaleBiasSoftmax" in cudnn_calls(program("h100:1x2", "auto", 224, **tower))


@pytest.mark.gpus
def test_gpus_can_do_without_cudnn():
    assert "__cudnn$fmha" not in program("h100:1x2", "xla", 224)
