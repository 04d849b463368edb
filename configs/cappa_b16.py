"""CapPa-B/16: an image tower pretrained by captioning alone, three quarters of it in parallel.

    mmjax train --config=configs/cappa_b16.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=t5-base --workdir=runs/cappa --distributed

Cost: about 0.14 TFLOP a pair, 1.3e21 FLOP in all: 190 days of one v5e chip or 120 of one A100 at 40
% of their peak. For your slice: `mmjax plan --config=configs/cappa_b16.py --topology=v5e:16x16`.

Recipe: Tschannen et al. (2023), section 3: ViT-B/16, a decoder of six cross-attending layers over
word embeddings, 75 % of the examples predicted in parallel, batch 8,192, 9B pairs seen, rate 1e-3,
weight decay 1e-4, reciprocal square root schedule, texts of 64 tokens. They find the image tower
close to a CLIP of the same size and data on classification, ahead of it on captioning and VQA. Not
run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 1_100_000
    config.batch_size = 8192

    config.model = models.zoo.config("SigLIP-B/16-224")
    config.model.name = "CapPa B/16"
    del config.model.logit  # there is no contrast
    config.model.text.update(depth=0, context_length=64, vocab_size=32_200, causal=True)
    config.model.text.update(mlm_head=True, pool="eot")
    for tower in (config.model.image, config.model.text):
        tower.update(remat="dots", unroll=False)
    config.model.fusion = config_lib.entry("model", kind="cross", depth=6)

    config.objectives.caption = config_lib.entry("objectives", parallel=0.75)
    config.optim.update(lr=1e-3, schedule="rsqrt", warmup_steps=10_000, weight_decay=1e-4)
    config.optim.update(b2=0.999, grad_clip=1.0)

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "t5-base"
    config.data.workers = 16

    config.checkpoint.every = 5_000
    return config_lib.variant(config, arg)
