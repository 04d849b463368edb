"""CLIP ViT-B/16 with a million pairs a step: every image against 1,048,576 texts, on 256 v5e chips.

    mmjax plan  --config=configs/clip_1m_batch.py --topology=v5e:16x16
    mmjax train --config=configs/clip_1m_batch.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=openai/clip-vit-base-patch16 --workdir=runs/b16-1m --distributed

Cost: no step is faster than 4.0 s by `mmjax plan` (bound by compute, MFU at most 64 %), so the run
takes at least 13 hours; 5.2 of 15.75 GiB a chip.

The towers see the batch in microbatches; the loss goes round the ring over all of it and is exact.
Zhai et al. (2023) trained up to a million pairs a step and found little gain above 32k: this is
for finding out, and for data with many near-duplicates. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 12_000
    config.batch_size = 1_048_576

    config.model = models.zoo.config("ViT-B/16")
    for tower in (config.model.image, config.model.text):
        tower.update(remat="dots", unroll=False)

    config.objectives.clip = config_lib.entry("objectives", implementation="ring")
    config.optim.update(lr=2e-3, b2=0.95, warmup_steps=1_000, weight_decay=0.2, grad_clip=1.0)
    config.optim.microbatches = 256

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "openai/clip-vit-base-patch16"
    config.data.text_lengths = (32, 77)
    config.data.augment.crop_scale = (0.9, 1.0)
    config.data.workers = 32

    config.checkpoint.every = 500
    return config_lib.variant(config, arg)
