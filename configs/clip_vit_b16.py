"""CLIP ViT-B/16 on img2dataset shards (DataComp, LAION, CC12M), for a pod or a GPU cluster.

    mmjax train --config=configs/clip_vit_b16.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=openai/clip-vit-base-patch16 --workdir=runs/b16

Cost: on 256 v5e chips no step is faster than 0.108 s by `mmjax plan` (bound by compute, MFU at most
74 %), so the run takes at least 2.4 hours; 4.2 of 15.75 GiB a chip. Microbatches of 16 pairs a chip
keep a block's activations out of HBM (benchmarks/README.md has the sweep).

Recipe: Radford et al. (2021) with the batch and schedule of open_clip's LAION runs (Cherti et al.,
2023). 34B examples seen reach 70.2 % zero-shot ImageNet in their paper; this is 2.6B, a thirteenth.
Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 80_000
    config.batch_size = 32_768

    config.model = models.zoo.config("ViT-B/16")
    for tower in (config.model.image, config.model.text):
        tower.update(remat="dots", unroll=False)

    config.objectives.clip = config_lib.entry("objectives")
    config.optim.update(lr=1e-3, warmup_steps=2_000, weight_decay=0.2, grad_clip=1.0)
    config.optim.microbatches = 8
    config.mesh.update(data=-1, fsdp=1, tensor=1)

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "openai/clip-vit-base-patch16"
    config.data.text_lengths = (32, 77)
    config.data.augment.crop_scale = (0.9, 1.0)
    config.data.workers = 16

    config.checkpoint.every = 2_000
    return config_lib.variant(config, arg)
