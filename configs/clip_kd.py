"""CLIP-KD: a ViT-T/16 taught by a ViT-B/16 with features, interactive contrast and similarities.

    mmjax train --config=configs/clip_kd.py --workdir=runs/clip_kd \
        --config.data.train.cc3m.path=CC3M --config.data.train.cc12m.path=CC12M \
        --config.teachers.teacher.source=WEIGHTS

WEIGHTS is a CLIP ViT-B/16: a folder or file of OpenAI's, open_clip's or transformers' format, or a
workdir. CC3M and CC12M are img2dataset shards.

Cost: `mmjax plan --config=configs/clip_kd.py --config.teachers.teacher.source=random:ViT-B/16
--topology=v5e:2x4` says what a step takes where; the teacher's forward pass is most of it, which
`mmjax embed` and config.data.copies save.

Recipe: Yang et al. (2024), 32 epochs of 12.9M pairs, loss CLIP + 2000 · feature MSE + interactive +
similarities. Expected: 34.9 % zero-shot ImageNet with a teacher of the same data (the student alone
30.6 %), 42.6 % with one of LAION-400M, as they report. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 402_000
    config.batch_size = 1_024

    config.model = models.zoo.config("ViT-B/16")
    config.model.name = "ViT-T/16"
    config.model.image.update(width=192, heads=3, mlp_dim=768)
    config.model.text.update(width=384, heads=6, mlp_dim=1536)
    for tower in (config.model.image, config.model.text):
        tower.unroll = False

    config.teachers.teacher = config_lib.entry("teachers")
    config.objectives.clip = config_lib.entry("objectives")
    config.objectives.distill_feature = config_lib.entry("objectives", weight=2000.0)
    config.objectives.distill_interactive = config_lib.entry("objectives")
    config.objectives.distill_similarity = config_lib.entry("objectives")
    config.optim.update(lr=1e-3, warmup_steps=10_000, weight_decay=0.1)

    config.data.train.cc3m = config_lib.entry("data.train", weight=2.9)
    config.data.train.cc12m = config_lib.entry("data.train", weight=10.0)
    config.data.tokenizer = "openai/clip-vit-base-patch16"
    config.data.text_lengths = (32, 77)
    config.data.workers = 16
    config.checkpoint.every = 5_000
    return config_lib.variant(config, arg)
