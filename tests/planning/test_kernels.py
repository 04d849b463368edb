"""Attention kernels in a whole train step, by the compilers of TPUs and GPUs (`make test-pods`)."""

import pytest

from mmjax import config as config_lib
from mmjax.models import zoo
from mmjax.parallel.hardware import describe
from mmjax.planning.compile import compile_step

KERNEL = 'custom_call_target="tpu_custom_call"'  # of Pallas: here only splash is one


def program(topology, implementation, size):
    """The compiled step of a small CLIP on `size`² pixels in patches of 16, on two layers."""
    config = config_lib.default()
    config.model = zoo.config("tiny")
    config.model.dtype = "bfloat16"
    config.model.image.update(size=size, patch_size=16, width=128, heads=2)
    for tower in (config.model.image, config.model.text):
        tower.update(attention=implementation, unroll=False)
    config.objectives.clip = config_lib.entry("objectives")
    config.batch_size = 16
    return compile_step(config, describe(topology)).text


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
def test_gpus_take_cudnn(implementation):
    text = program("h100:1x2", implementation, 224)
    assert "__cudnn$fmhaSoftmax" in text  # forward
    assert "__cudnn$fmhaSoftmaxBackward" in text


@pytest.mark.gpus
def test_gpus_can_do_without_cudnn():
    assert "__cudnn$fmha" not in program("h100:1x2", "xla", 224)
