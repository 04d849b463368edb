"""VideoPrism trains: a run's smoke form, sharded alike on any number of devices, and planned."""

import numpy as np
import tiny

from mmjax import config as config_lib
from mmjax import models
from mmjax.core import optim
from mmjax.models.parts import check_model


def run():
    """The smoke form of a run of the published architecture, on shapes that move."""
    config = tiny.config()
    config.model = models.zoo.config("VideoPrism-LvT-B")
    config.data.train = {
        "video": config_lib.entry("data.train", path="generated:32", media="video")
    }
    config.data.tokenizer = "captions:600"
    config.objectives.clip.of = ("video", "text")
    config = config_lib.smoke(config)
    config.model.video.update(depth=1, frames=2)  # it compiles for eight devices
    config.model.text.depth = 1
    config.model.video.unroll = config.model.text.unroll = False
    return config


def test_first_losses_and_gradients_are_the_same_on_one_device_and_on_eight():
    config = run()
    check_model(config.model)
    one = tiny.loaded_step(config, 1)
    for part in ("video", "text"):
        assert np.linalg.norm(one[1][part]["blocks"]["attention"]["query"]["kernel"]) > 1e-6
    rates = optim.lr_multipliers(config.optim, one[1])
    assert rates["text"]["position_table"] == 0  # it is fixed
    assert rates["video"]["time_embed"] == 1
    tiny.assert_same(tiny.loaded_step(config, 8), one)


def test_it_is_planned():
    assert tiny.planned(run()).fits
