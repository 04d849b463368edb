"""CoCa: a contrastive captioner, a causal text tower with cross-attending layers on top.

    mmjax train --config=configs/coca_b32.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=openai/clip-vit-base-patch32 --workdir=runs/coca --distributed

Cost: about 0.09 TFLOP a pair, 3e21 FLOP in all: 440 days of one v5e chip or 280 of one A100 at 40 %
of their peak. For your slice: `mmjax plan --config=configs/coca_b32.py --topology=v5e:16x16`.

Recipe: Yu et al. (2022), sections 3 and 4: the losses weigh 1 (contrast) and 2 (captions), the text
half is split in six layers without and six with cross-attention, batch 65,536, 500k steps, rate
8e-4, weight decay 0.01. Against the paper: ViT-B/32 at 224 pixels, the decoder attends to all patch
tokens (no attentional pooling to 256), and the words' head is tied to their embedding. The paper's
Base model (288 pixels, patch 18) has 82.6 % zero-shot ImageNet on 5B pairs. Not run here.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 500_000
    config.batch_size = 65_536

    config.model = models.zoo.config("ViT-B/32")
    config.model.name = "CoCa ViT-B/32"
    config.model.text.update(width=768, heads=12, mlp_dim=3072, depth=6, mlm_head=True)
    for tower in (config.model.image, config.model.text):
        tower.update(remat="dots", unroll=False)
    config.model.fusion = config_lib.entry("model", kind="cross", depth=6)

    config.objectives.clip = config_lib.entry("objectives", weight=1.0)
    config.objectives.caption = config_lib.entry("objectives", weight=2.0)
    config.optim.update(lr=8e-4, schedule="linear", warmup_steps=10_000, weight_decay=0.01)
    config.optim.update(b2=0.999, grad_clip=1.0)

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "openai/clip-vit-base-patch32"
    config.data.workers = 16

    config.checkpoint.every = 5_000
    return config_lib.variant(config, arg)
