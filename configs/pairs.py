"""CLIP on your own pairs: a CSV of images and captions, a folder of both, or img2dataset shards.

    mmjax train --config=configs/pairs.py --config.data.train.pairs.path=PATH --workdir=runs/mine

PATH is `captions.csv` (columns like image,caption), a folder with cat.jpg beside cat.txt, or a
folder of *.tar. A byte-pair tokenizer is trained on the captions and kept in the workdir.

Cost: made for a few thousand pairs on two CPU cores, about ten minutes. For more data and real
hardware take configs/clip_vit_b16.py.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 1_000
    config.batch_size = 128

    config.model = models.zoo.config("tiny")
    config.model.name = "ViT-tiny/8-64"
    config.model.embed_dim = 128
    config.model.image.update(size=64, width=128, depth=4, mlp_dim=512)
    config.model.text.update(width=128, depth=2, mlp_dim=512, vocab_size=4096, context_length=32)

    config.objectives.clip = config_lib.entry("objectives")
    config.optim.update(lr=1e-3, warmup_steps=100, weight_decay=0.1, grad_clip=1.0)

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "captions:4096"
    config.data.text_lengths = (16, 32)
    config.data.augment.update(crop_scale=(0.6, 1.0), flip=0.5, brightness=0.2, contrast=0.2)
    config.data.workers = 1

    config.checkpoint.every = 250
    return config_lib.variant(config, arg)
