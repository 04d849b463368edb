"""A text tower for a frozen DINOv2: LiT, after dino.txt, batch 65,536, for a pod.

    mmjax plan  --config=configs/dinotxt.py --topology=v5e:16x16
    mmjax train --config=configs/dinotxt.py --config.data.train.pairs.path=SHARDS --distributed \
        --config.init_from.source=facebook/dinov2-with-registers-large --workdir=runs/dinotxt

Recipe: Jose et al. (2025, "DINOv2 Meets Text", arXiv:2412.16334): DINOv2-L with registers is never
trained, 50k steps of 65,536 pairs; their dino.txt reaches 81.4 % zero-shot ImageNet at 224 px.
Against the paper: a linear head reads the class token, where theirs has two more blocks and reads
the mean of the patches, too; the data are as they come, not balanced; rate, warm-up and decay are
ours. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 50_000
    config.batch_size = 65_536

    config.model = models.zoo.config("ViT-L/14")
    config.model.name = "dino.txt ViT-L/14"
    config.model.image = models.zoo.config("dinov2-with-registers-large").image
    config.model.image.update(size=224, head="linear", unroll=False)
    config.model.text.update(remat="dots", unroll=False)

    config.init_from.update(
        source="facebook/dinov2-with-registers-large", parts=("image/(?!head)",)
    )
    config.optim.freeze = ("image/(?!head)",)
    config.objectives.clip = config_lib.entry("objectives")
    config.optim.update(lr=7e-4, b2=0.99, warmup_steps=2_000, weight_decay=1e-2)
    config.optim.microbatches = 4
    config.mesh.update(data=-1, fsdp=8, tensor=1)

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "openai/clip-vit-large-patch14"
    config.data.text_lengths = (32, 77)
    config.data.workers = 16

    config.checkpoint.every = 2_000
    return config_lib.variant(config, arg)
