"""CLIP ViT-B/32 whose text tower also fills in masked words: two objectives, two text passes.

    mmjax train --config=configs/mlm_clip.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=bert-base-uncased --workdir=runs/mlm_clip --distributed

Cost: about 0.06 TFLOP a pair, 8e19 FLOP in all: 12 days of one v5e chip or 8 of one A100 at 40 % of
their peak. For your slice: `mmjax plan --config=configs/mlm_clip.py --topology=v5e:8x8`.

The masked-language term is the text self-supervision of DeCLIP (Li et al., 2022), with its weight
of 0.2; the text tower sees both ways, as BERT's. They report 66.2 % zero-shot ImageNet for ViT-B/32
on 88M pairs with all of their terms, of which this is one. Not run here (no accelerator).
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 128_000
    config.batch_size = 10_240

    config.model = models.zoo.config("ViT-B/32")
    config.model.name = "ViT-B/32 with MLM"
    config.model.text.update(vocab_size=30_522, causal=False, mask_padding=True, pool="cls")
    config.model.text.update(mlm_head=True)
    for tower in (config.model.image, config.model.text):
        tower.update(remat="dots", unroll=False)

    config.objectives.clip = config_lib.entry("objectives", weight=1.0)
    config.objectives.mlm = config_lib.entry("objectives", weight=0.2, of="text")
    config.optim.update(lr=1e-3, warmup_steps=2_500, weight_decay=0.1, grad_clip=1.0)

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "bert-base-uncased"
    config.data.text_lengths = (32, 77)
    config.data.workers = 16

    config.checkpoint.every = 5_000
    return config_lib.variant(config, arg)
