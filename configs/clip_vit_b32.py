"""CLIP ViT-B/32 on img2dataset shards, batch 32,768: the small recipe for a slice or a GPU cluster.

    mmjax plan  --config=configs/clip_vit_b32.py --topology=v5e:8x8
    mmjax train --config=configs/clip_vit_b32.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=openai/clip-vit-base-patch32 --workdir=runs/b32 --distributed

Cost: on 64 v5e chips no step is faster than 0.155 s by `mmjax plan` (bound by compute, MFU at most
74 %), so the run takes at least 17 hours; 4.4 of 15.75 GiB a chip.

Recipe: Gadre et al. (2023, DataComp): 12.8B examples seen. They report 69.2 % zero-shot ImageNet
for ViT-B/32 on DataComp-1B. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 390_000
    config.batch_size = 32_768

    config.model = models.zoo.config("ViT-B/32")
    for tower in (config.model.image, config.model.text):
        tower.update(remat="dots", unroll=False)

    config.objectives.clip = config_lib.entry("objectives")
    config.optim.update(lr=1e-3, b2=0.95, warmup_steps=10_000, weight_decay=0.2, grad_clip=1.0)
    config.optim.microbatches = 8

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "openai/clip-vit-base-patch32"
    config.data.text_lengths = (32, 77)
    config.data.augment.crop_scale = (0.9, 1.0)
    config.data.workers = 16

    config.checkpoint.every = 5_000
    return config_lib.variant(config, arg)
