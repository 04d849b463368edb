"""CLIP ViT-L/14 on img2dataset shards (DataComp-1B, LAION-2B), batch 32,768, for a pod.

    mmjax plan  --config=configs/clip_vit_l14.py --topology=v5p:4x4x8
    mmjax train --config=configs/clip_vit_l14.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=openai/clip-vit-large-patch14 --workdir=runs/l14 --distributed

Cost: on 128 v5p chips no step is faster than 0.57 s by `mmjax plan` (bound by memory, MFU at most
52 %), so the run takes at least 61 hours; 42 of 94.75 GiB a chip. Microbatches and other kernels
of attention do not make it faster there (benchmarks/README.md).

Recipe: Gadre et al. (2023, DataComp): 12.8B examples seen, 79.2 % zero-shot ImageNet on DataComp-1B
with batch 90,112; LAION-2B with 32B examples reaches 75.3 % (Cherti et al., 2023). Not run here: no
accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 390_000
    config.batch_size = 32_768

    config.model = models.zoo.config("ViT-L/14")
    for tower in (config.model.image, config.model.text):
        tower.update(remat="dots", unroll=False)

    config.objectives.clip = config_lib.entry("objectives")
    config.optim.update(lr=1e-3, b2=0.95, warmup_steps=10_000, weight_decay=0.2, grad_clip=1.0)
    config.mesh.update(data=-1, fsdp=8, tensor=1)

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "openai/clip-vit-large-patch14"
    config.data.text_lengths = (32, 77)
    config.data.augment.crop_scale = (0.9, 1.0)
    config.data.workers = 16

    config.checkpoint.every = 2_000
    return config_lib.variant(config, arg)
