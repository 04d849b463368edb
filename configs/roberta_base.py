"""RoBERTa-base: BERT with masks drawn anew each step, larger batches, full passages.

    mmjax train --config=configs/roberta_base.py --config.data.train.lines.path=lines.txt \
        --config.data.tokenizer=roberta-base --workdir=runs/roberta --distributed

A sentence a line; for lines of whole passages, --config.data.pack=0.

Cost: about 0.3 TFLOP a row of 512 tokens, 1.3e21 FLOP in all: 120 days of one A100 at 40 % of its
peak. On v5e memory binds, by the plan: no less than 203 days of a chip. For your slice: `mmjax plan
--config=configs/roberta_base.py --topology=v5e:16x16`.

Recipe: Liu et al. (2019), sections 3 and 5, table 9: batch 8,192, 500k steps of 512 tokens, rate
6e-4, Adam's b2 0.98. They report a perplexity of 3.68 at batch 2,000 on BERT's data (table 3). Not
run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 500_000
    config.batch_size = 8192

    config.model = models.zoo.config("roberta-base")
    config.model.text.update(remat="dots", unroll=False)

    config.objectives.mlm = config_lib.entry("objectives", of="text")
    config.optim.update(lr=6e-4, schedule="linear", b2=0.98, warmup_steps=24_000)
    config.optim.update(weight_decay=0.01)

    config.data.train.lines = config_lib.entry("data.train", kind="text")
    config.data.pack = 16  # sentences of about 30 tokens in a row of 512
    config.data.tokenizer = "roberta-base"
    config.data.workers = 16

    config.checkpoint.every = 5_000
    return config_lib.variant(config, arg)
