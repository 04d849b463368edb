"""W&B that is not installed, or where nobody has logged in."""

import sys
import types

import pytest
from etils import epath

from mmjax import config as config_lib
from mmjax.errors import UserError
from mmjax.runs.metrics import MetricWriter, check_sinks


@pytest.fixture
def config():
    result = config_lib.default()
    result.log.update(wandb="project", tensorboard=False)
    return result


def test_wandb_that_is_not_installed_is_said_at_the_start(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if there were none
    with pytest.raises(UserError, match=r"wandb='project' needs .*pip install wandb"):
        check_sinks(config.log)
    config.log.wandb = ""
    check_sinks(config.log)


def test_wandb_without_a_login_is_one_sentence(config, tmp_path, monkeypatch):
    class Error(Exception):
        pass

    def init(**_):
        raise Error("api_key not configured (no-tty). call wandb.login(key=[your_api_key])")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Error=Error))
    with pytest.raises(UserError, match=r"W&B cannot start \(api_key.*run `wandb login`"):
        MetricWriter(epath.Path(tmp_path), config.log, config)
