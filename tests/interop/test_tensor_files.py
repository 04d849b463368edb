"""Lazy files of tensors: what they hold, and a sentence for each way they can be broken."""

import json
import sys

import numpy as np
import pytest
import safetensors.numpy
from pytorch import save_file, torch

from mmjax.errors import UserError
from mmjax.interop.files import open_tensors

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array(0.5, np.float16),
    "params/c": np.arange(4, dtype=np.int64),
}


def holds(tensors, arrays):
    assert set(tensors) == set(arrays)
    for name, array in arrays.items():
        assert tensors[name].shape == array.shape
        found = np.asarray(tensors[name])
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def write(path, arrays):
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file(arrays, path)
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.npz", "w.bin", "w.pt"])
def test_every_kind_of_file_holds_the_same(tmp_path, name):
    holds(open_tensors(write(tmp_path / name, ARRAYS)), ARRAYS)


def test_bfloat16_is_read_exactly(tmp_path):
    values = {"x": torch.tensor([1.0, 0.1, 3e38]).bfloat16()}
    save_file(values, tmp_path / "x.safetensors")
    torch.save(values, tmp_path / "x.pt")
    for name in ("x.safetensors", "x.pt"):
        found = np.asarray(open_tensors(tmp_path / name)["x"]).astype(np.float32)
        np.testing.assert_array_equal(found, values["x"].float().numpy())


def test_what_is_no_tensor_in_a_checkpoint_is_left_out(tmp_path):
    torch.save({"epoch": 3, "a": torch.zeros(2)}, tmp_path / "w.pt")
    assert set(open_tensors(tmp_path / "w.pt")) == {"a"}


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_an_index_joins_several_files(tmp_path, kind):
    names = sorted(ARRAYS)
    parts = {name: f"part-{i % 2}.{kind}" for i, name in enumerate(names)}
    for part in set(parts.values()):
        write(tmp_path / part, {name: ARRAYS[name] for name in names if parts[name] == part})
    index = tmp_path / f"model.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    holds(open_tensors(index), ARRAYS)

    (tmp_path / f"part-1.{kind}").unlink()
    with pytest.raises(UserError, match=rf"part-1\.{kind} is missing"):
        open_tensors(index)
    index.write_text("{")
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        open_tensors(index)


@pytest.mark.parametrize("name", ["w.safetensors", "w.npz", "w.bin", "w.pt"])
@pytest.mark.parametrize("left", [0.0, 0.02, 0.7])
def test_a_truncated_file_is_one_sentence(tmp_path, name, left):
    path = write(tmp_path / name, {"a": np.ones((64, 64), np.float32)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * left)])
    with pytest.raises(UserError, match=rf"{name} is damaged or incomplete.*copy or download"):
        open_tensors(path)


class Code:
    def __reduce__(self):
        return (print, ("this must never be printed",))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, zipped, capsys):
    path = tmp_path / "w.pt"
    content = {"a": torch.zeros(1), "code": Code()}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"w\.pt holds code beside its weights.*safetensors"):
        open_tensors(path)
    assert capsys.readouterr().out == ""


def test_without_torch_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    path = write(tmp_path / "w.bin", ARRAYS)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"only be read with PyTorch.*pip install 'mmjax\[torch\]'"):
        open_tensors(path)


def test_another_kind_of_file(tmp_path):
    with pytest.raises(UserError, match=r"notes\.txt is no file of weights"):
        open_tensors(tmp_path / "notes.txt")
