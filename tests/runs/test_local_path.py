"""Folders whose names are patterns, markup or URLs to some library: a run in them is read again."""

import jax
import pytest
from awkward import NAMES
from test_checkpoint import shapes, state

from mmjax import config as config_lib
from mmjax.errors import UserError
from mmjax.runs.checkpoint import Checkpoints, checkpoint_steps, restore_params
from mmjax.runs.local_path import shown, workdir_path


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_of_any_folder_are_read_again(tmp_path, name):
    folder = workdir_path(str(tmp_path / name / "run"))
    kept = Checkpoints(folder, config_lib.default().checkpoint)
    kept.save(1, state(1), {})
    kept.close()
    assert checkpoint_steps(folder) == [1]
    assert [p.name for p in tmp_path.iterdir()] == [name]
    abstract = shapes(state(1))
    found = restore_params(folder, abstract.params, ema=False)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), found, state(1).params))


def test_folders_that_checkpoints_cannot_have_are_refused():
    with pytest.raises(UserError, match=r"/x\\y has a backslash, .*: name another folder"):
        workdir_path("/tmp/x\\y")
    with pytest.raises(UserError, match=r"udcff' is not UTF-8, .*: name another folder"):
        workdir_path("/tmp/\udcff")


def test_home_slash_and_mounts_named_like_a_bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert str(workdir_path("~/a/")) == f"{tmp_path}/a"
    assert str(workdir_path("./~")) == f"{tmp_path}/~"
    assert str(workdir_path("/gs/a")) == "/gs/a"
    assert not workdir_path("/gs/a").exists()  # asks no bucket
    assert str(workdir_path("gs://bucket/a")) == "gs://bucket/a"


def test_messages_name_a_folder_as_short_as_it_can_be_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown(workdir_path("runs/a")) == "runs/a"
    assert shown(workdir_path("../a")) == str(tmp_path.parent / "a")
    assert shown(workdir_path("gs://bucket/a")) == "gs://bucket/a"
