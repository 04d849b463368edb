"""Chips by their device kind, and topologies that cannot be: named before any compiler is asked."""

import re
import types

import jax
import pytest

from mmjax.errors import UserError
from mmjax.parallel import hardware
from mmjax.parallel import mesh as mesh_lib


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v5 lite", 197e12),  # not v5p's, of which it is the longer name
        ("TPU v5p", 459e12),
        ("TPU v4", 275e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("cpu", None),
    ],
)
def test_peak_of_a_device_by_its_kind(kind, peak):
    assert hardware.peak_flops(kind) == peak


@pytest.mark.parametrize(
    ("topology", "sentence"),
    [
        ("v5e", "write GENERATION:SHAPE"),
        ("v5e:16by16", "write GENERATION:SHAPE"),
        ("v5ee:4x4", "there is no v5ee; the nearest is v5e"),
        ("v5e:32x32", "v5e has no slice 32x32; it has 1x1, 2x2"),  # libtpu would answer
        ("v5p:4x4", "v5p has no slice 4x4"),
        ("v5p:8x4x4", "multiples of 4 with A ≤ B ≤ C"),
        ("v5p:16x16x28", "v5p has no slice"),
        ("v4:4x4x4", "plan for v5p"),
        ("h100:8", "written HOSTSxGPUS, like h100:32x8"),
        ("2*h100:4x8", "written HOSTSxGPUS"),
    ],
)
def test_topologies_that_cannot_be(topology, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        hardware.describe(topology)


@pytest.mark.parametrize(
    ("topology", "command"), [("v5e:2x2", "mmjax[tpu]"), ("h100:2x8", "mmjax[gpu]")]
)
def test_a_missing_compiler_is_named_with_its_command(topology, command, monkeypatch):
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape(f"pip install '{command}'")):
        hardware.describe(topology)


@pytest.mark.parametrize("shape", ["2x2x1", "4x4x8", "8x16x16", "16x16x24"])
def test_slices_that_are(shape):
    hardware._check_slice(f"v5p:{shape}", "v5p", shape)


def slices(monkeypatch):
    """The eight devices as two slices of four."""
    devices = jax.devices()
    wrapped = [
        types.SimpleNamespace(
            slice_index=i // 4, id=d.id, platform="tpu", device_kind="TPU v5 lite",
            process_index=i // 4, coords=[i % 2, i % 4 // 2, 0], core_on_chip=0,
        )
        for i, d in enumerate(devices)
    ]  # fmt: skip
    monkeypatch.setattr(jax.sharding, "Mesh", lambda array, axes, axis_types: array)
    return wrapped


def test_only_replicas_go_over_the_network_between_slices(monkeypatch):
    array = mesh_lib.make_mesh(4, 2, 1, slices(monkeypatch))
    assert array.shape == (4, 2, 1)
    for replica, row in enumerate(array):
        assert {device.slice_index for device in row.flat} == {replica // 2}


def test_parameters_split_over_slices_are_refused(monkeypatch):
    with pytest.raises(UserError, match=r"config.mesh.data=1 is no multiple of the 2 slices"):
        mesh_lib.make_mesh(1, 8, 1, slices(monkeypatch))
