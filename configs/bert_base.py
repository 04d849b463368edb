"""BERT-base by masked language modelling alone, on a file of one passage a line.

    mmjax train --config=configs/bert_base.py --config.data.train.lines.path=lines.txt \
        --config.data.tokenizer=bert-base-uncased --workdir=runs/bert --distributed

Cost: about 0.3 TFLOP a passage, 8e19 FLOP in all: 11 days of one v5e chip or 7 of one A100 at 40 %
of their peak. For your slice: `mmjax plan --config=configs/bert_base.py --topology=v5e:4x4`.

Recipe: Devlin et al. (2019), section 3.1 and appendix A.2, without next-sentence prediction, which
RoBERTa found to be of no use: batch 256, 1M steps of up to 512 tokens, rate 1e-4. They report a
development perplexity of 3.99 for this size (table 6). Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 1_000_000
    config.batch_size = 256

    config.model = models.zoo.config("bert-base-uncased")
    config.model.text.update(remat="dots", unroll=False)

    config.objectives.mlm = config_lib.entry("objectives", of="text")
    config.optim.update(lr=1e-4, schedule="linear", b2=0.999, warmup_steps=10_000)
    config.optim.update(weight_decay=0.01, grad_clip=1.0)

    config.data.train.lines = config_lib.entry("data.train", kind="text")
    config.data.tokenizer = "bert-base-uncased"
    config.data.text_lengths = (128, 512)
    config.data.workers = 8

    config.checkpoint.every = 10_000
    return config_lib.variant(config, arg)
