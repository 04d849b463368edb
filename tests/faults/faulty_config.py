"""The run that the fault tests disturb: two layers of nothing, a checkpoint every fourth step.

`get_config` takes "KEY=VALUE,…" of what a test changes: `slow` is seconds that every record takes.
"""

import time

from mmjax import config as config_lib
from mmjax import models
from mmjax.data import generated

STEPS, EVERY = 12, 4


def get_config(arg=None):
    slow = float(dict(pair.split("=") for pair in arg.split(",")).get("slow", 0)) if arg else 0
    if slow:
        draw = generated.GeneratedSource.__getitem__

        def slowly(self, index):
            time.sleep(slow)
            return draw(self, index)

        generated.GeneratedSource.__getitem__ = slowly
    config = config_lib.default()
    config.model = models.zoo.config("tiny")
    config.objectives.clip = config_lib.entry("objectives")
    config = config_lib.smoke(config)
    for tower in (config.model.image, config.model.text):
        tower.update(width=16, depth=1, heads=2, mlp_dim=16)
    config.model.image.patch_dropout = 0.25  # so that the step's own randomness is part of it
    config.update(total_steps=STEPS, batch_size=8)
    config.data.augment.flip = 0.5
    config.data.prefetch = 1
    config.checkpoint.update(every=EVERY, keep=2)
    config.log.update(every=1, tensorboard=False)
    return config
