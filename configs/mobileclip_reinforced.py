"""Multi-modal reinforced training (MobileCLIP): two teachers, their embeddings beside the data.

    mmjax embed --config=configs/mobileclip_reinforced.py --output=EMBEDDINGS \
        --config.data.train.pairs.path=SHARDS --config.teachers.openai.source=WEIGHTS_1 \
        --config.teachers.datacomp.source=WEIGHTS_2
    mmjax train --config=configs/mobileclip_reinforced.py --workdir=runs/reinforced \
        --config.data.train.pairs.path=SHARDS \
        --config.teachers.openai.cached=EMBEDDINGS/openai \
        --config.teachers.datacomp.cached=EMBEDDINGS/datacomp

WEIGHTS_1 and WEIGHTS_2 are the CLIP ViT-L/14 of OpenAI and of DataComp-XL, which see every pair ten
times, each time another crop. The student is a plain ViT-B/16 (their MobileCLIP-B; the smaller ones
are hybrids that are not here).

Cost: embedding is 10 forward passes of both teachers for each pair, once for all students; the
embeddings are 2 · 2 · 10 · 768 · 2 bytes = 61 KB a pair. `mmjax plan` with the sources
random:ViT-L/14-quickgelu and random:ViT-L/14 says what a step with both teachers online would take.

Recipe: Vasu et al. (2024): (1 − λ) · CLIP + λ · KL to the mean of the teachers' distributions, λ
near 1. They also train on synthetic captions, which are not made here: give them as captions of
the shards. With them, on DataCompDR-1B, their MobileCLIP-B reaches 76.8 % zero-shot ImageNet; this
plain student without them will not. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models

LAMBDA = 0.75


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 200_000
    config.batch_size = 65_536

    config.model = models.zoo.config("ViT-B/16")
    for tower in (config.model.image, config.model.text):
        tower.update(remat="dots", unroll=False)

    teachers = ("datacomp", "openai")
    for name in teachers:
        config.teachers[name] = config_lib.entry("teachers")
    config.objectives.clip = config_lib.entry("objectives", weight=1 - LAMBDA)
    config.objectives.distill_similarity = config_lib.entry(
        "objectives", weight=LAMBDA, teachers=teachers
    )
    config.optim.update(lr=1e-3, warmup_steps=2_000, weight_decay=0.2, grad_clip=1.0)

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "openai/clip-vit-base-patch16"
    config.data.text_lengths = (32, 77)
    config.data.copies = 10
    config.data.augment.update(
        crop_scale=(0.08, 1.0), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
    )
    config.data.workers = 16
    config.checkpoint.every = 2_000
    return config_lib.variant(config, arg)
