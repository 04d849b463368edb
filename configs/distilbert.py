"""DistilBERT: every second layer of a BERT, taught by it to fill in the same masked words.

    mmjax train --config=configs/distilbert.py --config.data.train.lines.path=lines.txt \
        --config.teachers.teacher.source=bert-base-uncased --workdir=runs/distilbert --distributed

lines.txt has one passage a line; the source may also be a run of configs/bert_base.py.

Cost: about 0.27 TFLOP a passage, a third of it the teacher's pass, 7e18 FLOP in all. On v5e memory
binds, by the plan: no less than 31 hours of a chip. For your slice: `mmjax plan
--config=configs/distilbert.py --topology=v5e:4x4
--config.teachers.teacher.source=random:bert-base-uncased`.

Recipe: Sanh et al. (2019) and their code (the distillation project in transformers): soft
cross-entropy at T = 2, masked language and the cosine of the last hidden states, weighted 5, 2 and
1; batches up to 4k, rate 5e-4, positions frozen, three epochs of BERT's data (some 8.4M passages of
512 tokens). The student has the layers 0, 2, 4 … 10 (theirs: 0, 2, 4, 7, 9, 11) and keeps BERT's
token types, so that it exports as a BertForMaskedLM of six layers. They report 77.0 on GLUE's
development sets, where BERT-base has 79.5. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 6_200
    config.batch_size = 4_096

    config.model = models.zoo.config("bert-base-uncased")
    config.model.name = "DistilBERT"
    config.model.text.update(depth=6, remat="dots", unroll=False)

    config.teachers.teacher = config_lib.entry("teachers", start=True)
    config.objectives.distill_tokens = config_lib.entry("objectives", weight=5.0)
    config.objectives.mlm = config_lib.entry("objectives", weight=2.0, of="text")
    config.objectives.distill_hidden = config_lib.entry("objectives", weight=1.0)
    config.optim.update(lr=5e-4, schedule="linear", warmup_steps=310, weight_decay=0.0)
    config.optim.update(grad_clip=5.0, freeze=("text/position_embed",))
    config.optim.microbatches = 4  # with 2, 16 chips of v5e lack 0.8 GiB each

    config.data.train.lines = config_lib.entry("data.train", kind="text")
    config.data.tokenizer = "bert-base-uncased"
    config.data.text_lengths = (128, 512)
    config.data.workers = 8

    config.checkpoint.every = 500
    return config_lib.variant(config, arg)
