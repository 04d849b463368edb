"""LiT: a frozen image tower (ViT-B/16, ImageNet-21k), and a text tower that learns to read it.

    mmjax train --config=configs/lit_b16.py --config.data.train.pairs.path=SHARDS \
        --config.init_from.source=google/vit-base-patch16-224-in21k --workdir=runs/lit --distributed

Recipe: Zhai et al. (2022, "LiT: zero-shot transfer with locked-image text tuning"): the image tower
is taken as it is, without a head, and never trained; the text tower is a BERT-base from scratch
with a linear head. Nothing is computed backwards through the image tower. `:smoke` keeps the recipe
and freezes tiny random towers, for want of weights that every machine has. Not run here: no
accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 60_000
    config.batch_size = 16_384

    config.model = models.zoo.config("bert-base-uncased")
    vit = models.zoo.config("vit-base-patch16-224")
    config.model.name = "LiT-B/16"
    config.model.image = vit.image
    config.model.logit = config_lib.entry("model", kind="scale")
    config.model.image.head = "none"
    config.model.text.update(head="linear", mlm_head=False, context_length=32)
    for tower in (config.model.image, config.model.text):
        tower.update(remat="dots", unroll=False)

    config.init_from.update(source="google/vit-base-patch16-224-in21k", parts=("image/",))
    config.optim.freeze = ("image/",)
    config.objectives.clip = config_lib.entry("objectives")
    config.optim.update(lr=1e-3, b2=0.999, warmup_steps=10_000, weight_decay=1e-4, grad_clip=1.0)

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "google-bert/bert-base-uncased"
    config.data.text_lengths = (16, 32)
    config.data.update(resize="squash", interpolation="bilinear")  # as big_vision's
    config.data.workers = 16

    config.checkpoint.every = 5_000
    return config_lib.variant(config, arg)
