"""Fine-tuning a CLIP or SigLIP on your own pairs, from any weights that `mmjax.load` reads.

    mmjax train --config=configs/finetune_clip.py:openai/clip-vit-base-patch32 \
        --config.data.train.pairs.path=captions.csv --workdir=runs/finetuned

After the colon stands the source: a folder, a file, a run's workdir or a hub name. Architecture,
tokenizer and preprocessing are its own. `:smoke` keeps the recipe and starts tiny towers from
random parameters, for want of weights that every machine has.

Settings after Dong et al. (2022, "CLIP itself is a strong fine-tuner"): a low rate that falls by a
factor a layer, and an average of the parameters. Cost: with ViT-B/32 on one GPU minutes for ten
thousand pairs. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models
from mmjax.interop import registry


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 1_000
    config.batch_size = 256

    config.model = models.zoo.config("ViT-B/32-quickgelu")
    if arg and arg != "smoke":
        of_weights = registry.find(arg).config
        config.model = of_weights.model
        config.data.resize = of_weights.data.resize
        config.data.interpolation = of_weights.data.interpolation
        config.init_from.source = arg
    config.data.tokenizer = "init_from"

    siglip = config.model.logit.bias is not None
    config.objectives["siglip" if siglip else "clip"] = config_lib.entry("objectives")
    config.optim.update(lr=1e-5, b2=0.98, warmup_steps=50, weight_decay=0.05, grad_clip=1.0)
    config.optim.update(layer_decay=0.75, ema=0.999)

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.augment.update(crop_scale=(0.9, 1.0))
    config.data.workers = 2

    config.checkpoint.every = 250
    return config_lib.variant(config, None if config.init_from.source else arg)
