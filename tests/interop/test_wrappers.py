"""What trainers put around weights is taken off and said, whatever the wrapper and the file."""

import json
import logging
import re

import numpy as np
import pytest
import safetensors.numpy
from pytorch import save_file, torch

from mmjax.data import load_tokenizer
from mmjax.errors import UserError
from mmjax.interop.files import open_tensors, read_json
from mmjax.interop.wrappers import AVERAGED, OWNERS, STATES, WRAPPERS, unwrapped

NAMES = ("visual.conv1.weight", "visual.ln_pre.weight", "logit_scale", "text_decoder.a")
ARRAYS = {name: np.full(2, i, np.float32) for i, name in enumerate(NAMES)}


def assert_read(path, caplog, *said):
    caplog.clear()
    with caplog.at_level(logging.WARNING, "mmjax.interop"):
        found = open_tensors(path)
    assert {name: np.asarray(x).tolist() for name, x in found.items()} == {
        name: x.tolist() for name, x in ARRAYS.items()
    }
    for word in said:
        assert f"{path}: " in caplog.text
        assert word in caplog.text
    assert bool(said) == bool(caplog.text)


PREFIXES = [
    *(f"{name}." for name in (*WRAPPERS, *OWNERS)),
    "module._orig_mod.", "_orig_mod.module.", "_forward_module.module.", "model.module.",
    "ema.module.", "module.model._orig_mod.",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers(tmp_path, caplog, prefix):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({prefix + name: x for name, x in ARRAYS.items()}, path)
    assert_read(path, caplog, *(f"{name}. (4 names)" for name in prefix.split(".")[:-1]))


def test_a_part_that_was_wrapped_alone_and_files_with_an_index(tmp_path, caplog):
    wrapped = {name.replace("visual.", "visual._orig_mod."): x for name, x in ARRAYS.items()}
    wrapped["n_averaged"] = np.array(3, np.int64)
    for number, name in enumerate(wrapped):
        safetensors.numpy.save_file({name: wrapped[name]}, tmp_path / f"{number}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    files = {name: f"{number}.safetensors" for number, name in enumerate(wrapped)}
    index.write_text(json.dumps({"weight_map": files}))
    assert_read(index, caplog, "_orig_mod. (2 names)")


def test_what_is_not_wrapped_is_left_as_it_is(tmp_path, caplog):
    safetensors.numpy.save_file(ARRAYS, tmp_path / "w.safetensors")
    assert_read(tmp_path / "w.safetensors", caplog)
    names = ["model.a", "net.a", "vision_model.a", "params/img/module/kernel"]
    assert list(unwrapped(dict.fromkeys(names), tmp_path)) == names


def test_one_parameter_in_two_wrappers_is_refused(tmp_path):
    names = {"visual.a": 0, "_orig_mod.visual.a": 1}
    with pytest.raises(UserError, match=r"holds visual\.a and _orig_mod\.visual\.a, which are one"):
        unwrapped(names, tmp_path)


def state():
    return {name: torch.from_numpy(x) for name, x in ARRAYS.items()}


def checkpoints():
    wrapped = {f"module.{name}": x for name, x in state().items()}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    beside = {"epoch": 3, "best": torch.tensor(0.5), "optimizer": optimizer}
    zeros = {name: torch.zeros(2) - 1 for name in ARRAYS}
    yield from ((beside | {name: state()}, (name,)) for name in (*STATES, *AVERAGED))
    yield beside | {"state_dict": wrapped}, ("state_dict", "module. (4 names)")
    yield beside | {"ema": zeros, "model": state()}, ("under model (and leaves 'ema')",)
    yield beside | {"ema": {"module": state(), "decay": 0.9}}, ("ema → module",)
    yield {"state": {"model": state()}, "epoch": 1, "weird": state()}, ("under weird",)
    yield {"mine": state(), "lr": 0.1}, ("under mine",)


@pytest.mark.parametrize("number", range(len(STATES) + len(AVERAGED) + 5))
def test_checkpoints_of_trainers(tmp_path, caplog, number):
    content, said = list(checkpoints())[number]
    torch.save(content, tmp_path / "w.pt")
    assert_read(tmp_path / "w.pt", caplog, *said)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: {"a": state(), "b": state()}, "holds several state dicts ('a', 'b')"),
        (
            lambda: {"epoch": 3, "lr": [0.1]},
            "holds no state dict of weights: it holds 'epoch'",
        ),
        (lambda: [torch.zeros(2)], "holds a list, not a state dict"),
    ],
)
def test_checkpoints_without_weights(tmp_path, make, said):
    torch.save(make(), tmp_path / "w.pt")
    with pytest.raises(UserError, match=re.escape(said)):
        open_tensors(tmp_path / "w.pt")


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_float8_is_refused_in_a_sentence(tmp_path, name, dtype):
    tensors = {"a.weight": torch.zeros(3).to(getattr(torch, dtype))}
    (save_file if name.endswith("s") else torch.save)(tensors, tmp_path / name)
    with pytest.raises(UserError, match=r"holds a\.weight as .*8.*bfloat16, float16 or float32"):
        open_tensors(tmp_path / name)


@pytest.mark.parametrize("name", ["w.safetensors", "w.npz", "w.bin", "w.pt", "w.index.json"])
def test_a_pointer_for_weights_is_named(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UserError, match=rf"{name} is a git-lfs pointer, not the file itself"):
        open_tensors(tmp_path / name)


@pytest.mark.parametrize("name", ["tokenizer.json", "spiece.model", "config.json"])
def test_a_pointer_beside_the_weights_is_named(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UserError, match=rf"{name} is a git-lfs pointer"):
        load_tokenizer(tmp_path) if name != "config.json" else read_json(tmp_path / name)
