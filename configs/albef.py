"""ALBEF: contrast first, then cross-attention; contrastive, masked-language and matching losses.

    mmjax train --config=configs/albef.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=bert-base-uncased --workdir=runs/albef --distributed

Cost: about 0.24 TFLOP a pair, 1e20 FLOP in all: 15 days of one v5e chip or 9 of one A100 at 40 % of
their peak. For your slice: `mmjax plan --config=configs/albef.py --topology=v5e:4x4`.

Recipe: Li et al. (2021), section 3: ViT-B/16 at 256 pixels, six layers of BERT-base for the text
and six with cross-attention, batch 512 over 30 epochs of 14M pairs, rate 1e-4, weight decay 0.02.
Without momentum distillation, with which they report 95.9 % text recall at 1 on Flickr30k after
fine-tuning. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 820_000
    config.batch_size = 512

    config.model = models.zoo.config("bert-base-uncased")
    config.model.update(name="ALBEF", embed_dim=256)
    config.model.image = config_lib.entry("model", kind="vit", size=256, patch_size=16)
    config.model.image.update(norm_pre=False, patch_bias=True, norm_eps=1e-6)
    config.model.image.update(remat="dots", unroll=False)
    config.model.text.update(depth=6, head="linear", context_length=30, remat="dots", unroll=False)
    config.model.fusion = config_lib.entry("model", kind="cross", depth=6)
    config.model.logit = config_lib.entry("model", kind="scale")

    config.objectives.clip = config_lib.entry("objectives")
    config.objectives.mlm = config_lib.entry("objectives")
    config.objectives.matching = config_lib.entry("objectives")
    config.optim.update(lr=1e-4, warmup_steps=1_000, weight_decay=0.02, b2=0.999)

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "bert-base-uncased"
    config.data.augment.update(crop_scale=(0.5, 1.0), flip=0.5)
    config.data.workers = 8

    config.checkpoint.every = 5_000
    return config_lib.variant(config, arg)
