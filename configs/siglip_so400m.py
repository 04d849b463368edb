"""SigLIP So400m/14 at 224 px on img2dataset shards, batch 32,768, for a pod.

    mmjax plan  --config=configs/siglip_so400m.py --topology=v5e:16x16
    mmjax train --config=configs/siglip_so400m.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=google/siglip-so400m-patch14-224 --workdir=runs/so400m --distributed

Cost: on 256 v5e chips no step is faster than 0.61 s by `mmjax plan` (bound by compute, MFU at most
74 %), so the run takes at least 8.6 days; 4.0 of 15.75 GiB a chip.

Recipe: Zhai et al. (2023) with the shape-optimised tower of Alabdulmohsin et al. (2023); 40B pairs
of WebLI reach 82.0 % zero-shot ImageNet at 224 px. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 1_220_000
    config.batch_size = 32_768

    config.model = models.zoo.config("SigLIP-So400m/14-224")
    for tower in (config.model.image, config.model.text):
        tower.update(remat="dots", unroll=False)

    config.objectives.siglip = config_lib.entry("objectives")
    config.optim.update(
        lr=1e-3, b2=0.95, eps=1e-8, warmup_steps=20_000, weight_decay=1e-4, grad_clip=1.0
    )
    config.optim.microbatches = 8
    config.mesh.update(data=-1, fsdp=16, tensor=1)

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "google/siglip-so400m-patch14-224"
    config.data.augment.crop_scale = (0.9, 1.0)
    config.data.workers = 16

    config.checkpoint.every = 2_000
    return config_lib.variant(config, arg)
