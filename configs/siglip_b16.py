"""SigLIP ViT-B/16 at 224 px on img2dataset shards, for a pod or a GPU cluster.

    mmjax plan  --config=configs/siglip_b16.py --topology=v5e:16x16
    mmjax train --config=configs/siglip_b16.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=google/siglip-base-patch16-224 --workdir=runs/siglip

Cost: on 256 v5e chips no step is faster than 0.122 s by `mmjax plan` (bound by compute, MFU at most
74 %), so the run takes at least 2.7 hours; 5.1 of 15.75 GiB a chip.

Recipe: Zhai et al. (2023): sigmoid loss, batch 32k, Lion or AdamW with b2 0.95, no clamp on the
scale, padding attended to. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 80_000
    config.batch_size = 32_768

    config.model = models.zoo.config("SigLIP-B/16-224")
    for tower in (config.model.image, config.model.text):
        tower.update(remat="dots", unroll=False)

    config.objectives.siglip = config_lib.entry("objectives")
    config.optim.update(
        lr=1e-3, b2=0.95, eps=1e-8, warmup_steps=4_000, weight_decay=1e-4, grad_clip=1.0
    )
    config.optim.microbatches = 8

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "google/siglip-base-patch16-224"
    config.data.augment.crop_scale = (0.9, 1.0)
    config.data.update(resize="squash", interpolation="bilinear")  # as published: big_vision's
    config.data.workers = 16

    config.checkpoint.every = 2_000
    return config_lib.variant(config, arg)
