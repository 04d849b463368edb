"""TIPSv2 ViT-B/14: contrast, self-distillation and masked patches from the first step, for a pod.

    mmjax plan  --config=configs/tips_b14.py --topology=v5e:16x16
    mmjax train --config=configs/tips_b14.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=google-bert/bert-base-uncased --workdir=runs/tips --distributed

Recipe: TIPS (Maninis et al., 2025, arXiv:2410.16512) as TIPSv2 (2026, arXiv:2604.12012) has it:
six local crops, 75 % of the patches hidden, a loss on all patches, weights of 1 and 2, and a
teacher that is the model itself, whose heads alone are averaged. The loss on all patches takes
zero-shot segmentation of ADE20K from 3.5 to 17.6. Theirs reads two captions of an image, one of
them synthetic; here a record's captions are taken by turns. Batch, steps, rate and warm-up are
ours. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 140_000
    config.batch_size = 16_384

    config.model = models.zoo.config("ViT-B/16")
    config.model.name = "TIPS-B/14"
    config.model.image.update(patch_size=14, mask_token=True, registers=1)
    config.model.text.update(vocab_size=30_522, context_length=64)
    for tower in (config.model.image, config.model.text):
        tower.update(remat="dots", unroll=False)

    config.objectives.clip = config_lib.entry("objectives")
    config.objectives.self_distill = config_lib.entry("objectives", teacher="self")
    config.objectives.masked_distill = config_lib.entry(
        "objectives", weight=2.0, rate=0.75, all_patches=True, teacher="self"
    )
    config.optim.update(lr=5e-4, b2=0.95, warmup_steps=10_000, weight_decay=0.1, grad_clip=1.0)
    config.optim.update(ema=0.994, ema_of="heads")
    config.optim.microbatches = 4

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "google-bert/bert-base-uncased"
    config.data.crops.update(count=6, size=98)
    config.data.workers = 16

    config.checkpoint.every = 2_000
    return config_lib.variant(config, arg)
