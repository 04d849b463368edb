"""Plans: on CPU devices in place of a pod, what is counted; on a small TPU slice, that it works."""

import dataclasses
import functools
import json

import jax
import pytest
import tiny
from rich.console import Console

from mmjax import cli, models
from mmjax import config as config_lib
from mmjax.config_file import load_config
from mmjax.models.flops import forward_flops
from mmjax.parallel import hardware
from mmjax.planning import command
from mmjax.planning import plan as plan_lib
from mmjax.shipped import recipes

CHIP = hardware.Chip("cpu", 1e12, 5e11, 2e9, 1e9, 1e11, 1e10, 1e9)


@pytest.fixture
def eight(monkeypatch):
    """`--topology=eight` is this machine's eight CPU devices, as two hosts of four."""
    clusters = {}

    def describe(topology, usable=CHIP.usable):
        chip = CHIP._replace(usable=clusters.get("usable", usable))
        return hardware.Topology(topology, chip, jax.devices(), 2)

    monkeypatch.setattr(plan_lib, "describe", describe)
    return clusters


def config(**mesh):
    result = tiny.config()
    result.mesh.update(**mesh)
    result.data.train.pairs = config_lib.entry("data.train", path="generated:64")
    return result


@functools.cache
def planned(data, fsdp):
    return plan_lib.make_plan(config(data=data, fsdp=fsdp), "eight")


def test_what_a_device_holds_and_computes(eight):
    plan = planned(8, 1)
    shapes = tiny.shapes(models.from_config(config().model))
    parameters = 4 * sum(x.size for x in jax.tree.leaves(shapes))
    assert plan.parameter_bytes == parameters
    assert 2 * parameters < plan.optimizer_bytes < 2 * parameters + 100  # two moments
    pixels = tiny.BATCH // 8 * 16 * 16 * 3
    assert plan.argument_bytes - plan.parameter_bytes - plan.optimizer_bytes > pixels
    assert plan.peak_bytes >= plan.argument_bytes + plan.temp_bytes
    assert plan.activation_bytes > 0
    assert plan.model_flops == 3 * forward_flops(config().model, shapes) * tiny.BATCH / 8
    # The backward pass of the first layer's pixels is not computed; of attention, some is twice.
    assert 0.7 < plan.hardware_flops / plan.model_flops < 1.4
    assert plan.fits
    assert plan.examples_per_second == pytest.approx(tiny.BATCH / plan.roofline_seconds)


def test_gradients_are_summed_over_the_replicas(eight):
    plan = planned(8, 1)
    reduced = [c for c in plan.collectives if c["kind"] == "all-reduce" and c["axes"] == ("data",)]
    assert sum(c["bytes"] for c in reduced) == pytest.approx(
        2 * 7 / 8 * plan.parameter_bytes, rel=0.05
    )
    assert plan.roofline["outside"] > 0  # replicas are on both hosts


def test_split_parameters_are_gathered_and_take_less_room(eight):
    plan = planned(2, 4)
    assert plan.parameter_bytes < planned(8, 1).parameter_bytes / 2
    assert any(c["kind"] == "all-gather" and c["axes"] == ("fsdp",) for c in plan.collectives)
    assert plan.shardings["image/blocks/mlp/fc1/kernel"] == "2,32,64 -,-,fsdp"


def run(tmp_path, **options):
    file = tmp_path / "plan.json"
    fits = command.run({"tiny": config()}, "eight", json_file=str(file), **options)
    return fits, json.loads(file.read_text())


def test_json_has_the_stable_keys(eight, tmp_path, capsys):
    fits, found = run(tmp_path, print_shardings=True)
    assert fits
    assert found.keys() >= {
        "fits", "peak_bytes", "capacity_bytes", "argument_bytes", "temp_bytes", "model_flops",
        "collectives", "roofline_seconds", "mfu_bound", "devices", "topology", "compile_seconds",
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "It fits" in printed
    assert "image/blocks/attention/query/kernel" in printed
    assert f"Bound by {found['bound_by']}" in printed
    steps = config().total_steps * 8
    flops, seconds = steps * found["hardware_flops"], steps * found["roofline_seconds"]
    run_and_one = f"{command._long(seconds / 8)} on these 8 devices ({command._long(seconds)} of"
    assert f"steps: {flops:.1e} FLOP, at least {run_and_one}" in " ".join(printed.split())


def test_no_size_is_below_zero(eight, capsys):
    """On TPUs, activations of a small program may be on the chip and not among its temporaries."""
    plan = planned(8, 1)
    plan = dataclasses.replace(plan, activation_bytes=10 * plan.peak_bytes)
    command.describe(Console(highlight=False), plan)
    printed = capsys.readouterr().out
    assert "other temporaries" in printed
    assert " -" not in printed


def test_times_are_said_as_people_say_them():
    said = [command._long(seconds) for seconds in (0.25, 119, 121, 7300, 60_480, 345_600)]
    assert said == ["0.2 seconds", "119.0 seconds", "2.0 minutes", "2.0 hours", "16.8 hours",
                    "4.0 days"]  # fmt: skip


def test_what_does_not_fit_is_named_with_what_to_try(eight, tmp_path, capsys):
    eight["usable"] = 1e5
    fits, found = run(tmp_path)
    assert not fits
    assert found["fits"] is False
    assert len(found["largest_buffers"]) == 3
    assert "config.model.image.remat=full" in " ".join(found["advice"])
    printed = capsys.readouterr().out
    assert "It does not fit" in printed
    assert found["largest_buffers"][0]["shape"] in printed


def test_a_sweep_plans_each_value(eight, tmp_path, capsys):
    fits, found = run(tmp_path, sweep="mesh=8x1x1,2x4x1")
    assert fits
    assert [plan["mesh"]["fsdp"] for plan in found.values()] == [1, 4]
    assert "mesh=2x4x1" in capsys.readouterr().out


def test_a_sweep_may_be_of_both_towers_and_of_an_option():
    both = command.variants(config(), "model.*.remat=dots,full")
    assert [(c.model.image.remat, c.model.text.remat) for c in both.values()] == [
        ("dots", "dots"), ("full", "full"),
    ]  # fmt: skip
    (ring,) = command.variants(config(), "objectives.clip.implementation=ring").values()
    assert ring.objectives.clip.implementation == "ring"


@pytest.mark.parametrize(
    ("sweep", "sentence"),
    [
        ("batch_size", "write KEY=VALUE"),
        ("batchsize=1,2", "nearest is config.batch_size"),
        ("batch_size=many", "'many' must be an integer"),
        ("mesh=8x1", "DATAxFSDPxTENSOR"),
    ],
)
def test_sweeps_that_cannot_be(eight, tmp_path, sweep, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(tmp_path, sweep=sweep)


def test_a_small_slice_by_the_real_compiler(tmp_path, monkeypatch):
    """Two-by-two chips of a v5e that is not here, through the command line."""
    config_file, found = tmp_path / "config.py", tmp_path / "plan.json"
    config_file.write_text(
        "import tiny\nfrom mmjax.config import entry\n\ndef get_config(arg=None):\n"
        "    config = tiny.config()\n    config.data.train.pairs = entry('data.train')\n"
        "    config.mesh.update(data=2, fsdp=2)\n    return config\n"
    )
    cli.main(["plan", f"--config={config_file}", "--topology=v5e:2x2", f"--json={found}"])
    plan = json.loads(found.read_text())
    assert plan["fits"]
    assert plan["devices"] == 4
    kinds = {(c["kind"], *c["axes"]) for c in plan["collectives"]}
    assert any(kind[0] == "all-gather" for kind in kinds)
    assert 0 < plan["mfu_bound"] < 1
    too_large = [f"--config.{key}" for key in ("batch_size=4194304", "model.image.width=32")]
    with pytest.raises(SystemExit) as stopped:
        cli.main([
            "plan", f"--config={config_file}", "--topology=v5e:2x2", f"--json={found}", *too_large
        ])  # fmt: skip
    assert stopped.value.code == 1
    plan = json.loads(found.read_text())
    assert plan["peak_bytes"] > plan["capacity_bytes"]
    assert plan["largest_buffers"][0]["bytes"] > 2**28


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_planned_before_there_are_any_data(name):
    command.check(load_config(name))
