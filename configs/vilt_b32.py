"""ViLT-B/32: early fusion, one transformer over word and patch embeddings; MLM and matching.

    mmjax train --config=configs/vilt_b32.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=bert-base-uncased --workdir=runs/vilt --distributed

Cost: about 0.4 TFLOP a pair, 3.3e20 FLOP in all: 30 days of one A100 at 40 % of its peak. On v5e
memory binds, by the plan: no less than 53 days of a chip. For your slice: `mmjax plan
--config=configs/vilt_b32.py --topology=v5e:8x8`.

Recipe: Kim et al. (2021): whole words are masked, batch 4,096, 200k steps, rate 1e-4, weight decay
0.01, a tenth of the steps to warm up. Here pictures are squares of 384 pixels, negatives of the
matching come from the batch, and there is no word–patch alignment. They report 70.33 on VQAv2 after
fine-tuning. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 200_000
    config.batch_size = 4096

    config.model = models.zoo.config("ViT-B/32")
    config.model.update(name="ViLT-B/32", embed_dim=768)
    half = (0.5, 0.5, 0.5)
    config.model.image.update(size=384, depth=0, norm_pre=False, patch_bias=True, mean=half)
    config.model.image.update(std=half, head="none", norm_eps=1e-6)
    # The text tower's blocks are those of the fusion: ViT-B's.
    config.model.text.update(width=768, heads=12, mlp_dim=3072, depth=0, norm_eps=1e-6)
    config.model.text.update(vocab_size=30_522, context_length=40, head="none", mlm_head=True)
    config.model.text.update(causal=False, mask_padding=True, pool="cls", embed_norm=True)
    config.model.text.update(remat="dots", unroll=False)
    config.model.fusion = config_lib.entry("model", kind="concat", depth=12)
    del config.model.logit  # nothing is compared before the fusion

    config.objectives.mlm = config_lib.entry("objectives", whole_word=True)
    config.objectives.matching = config_lib.entry("objectives", negatives="uniform")
    config.optim.update(lr=1e-4, schedule="linear", warmup_steps=20_000, weight_decay=0.01)

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "bert-base-uncased"
    config.data.workers = 16

    config.checkpoint.every = 5_000
    return config_lib.variant(config, arg)
