"""FLAVA: two full towers and a multimodal encoder on top; four objectives in one step.

    mmjax train --config=configs/flava.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=bert-base-uncased --workdir=runs/flava --distributed

Cost: about 0.6 TFLOP a pair, 7e20 FLOP in all: 68 days of one A100 at 40 % of its peak. On v5e
memory binds, by the plan, which needs two microbatches there: no less than 131 days of a chip. For
your slice: `mmjax plan --config=configs/flava.py --topology=v5e:16x16`.

Recipe: Singh et al. (2022), sections 3 and 4: ViT-B/16 for both modalities, six layers of merged
attention, batch 8,192, rate 1e-3, 150k steps on 70M pairs. Here hidden patches are told as pixels,
not as codes of a discrete VAE, and the unimodal corpora are left out, so their results are not to
be expected. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 150_000
    config.batch_size = 8192

    config.model = models.zoo.config("ViT-B/16")
    config.model.update(name="FLAVA", embed_dim=768)
    config.model.image.update(norm_pre=False, patch_bias=True, pixel_head=True)
    config.model.text.update(width=768, heads=12, mlp_dim=3072, context_length=77)
    config.model.text.update(vocab_size=30_522, causal=False, mask_padding=True, pool="cls")
    config.model.text.update(mlm_head=True)
    for tower in (config.model.image, config.model.text):
        tower.update(norm_eps=1e-12, remat="dots", unroll=False)
    config.model.fusion = config_lib.entry("model", kind="concat", depth=6)

    config.objectives.clip = config_lib.entry("objectives")
    config.objectives.mlm = config_lib.entry("objectives")
    config.objectives.matching = config_lib.entry("objectives")
    config.objectives.masked_image = config_lib.entry("objectives", rate=0.4)
    config.optim.update(lr=1e-3, warmup_steps=10_000, weight_decay=0.1, b2=0.999, grad_clip=1.0)
    config.optim.microbatches = 2

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "bert-base-uncased"
    config.data.augment.crop_scale = (0.9, 1.0)
    config.data.workers = 16

    config.checkpoint.every = 5_000
    return config_lib.variant(config, arg)
