"""MIL-NCE on HowTo100M: clips of narrated videos, each with the captions nearest in time.

    mmjax train --config=configs/milnce_howto100m.py --workdir=runs/milnce --distributed \
        --config.data.train.howto100m.path=caption.json

`caption.json` is that of HowTo100M (id: text, start, end), the videos in a folder beside it. A clip
lasts 3.2 s; its bag are the five captions nearest in time, any of which may be what it shows.

Cost: for your slice, `mmjax plan --config=configs/milnce_howto100m.py --topology=v5p:4x4x4`.

Recipe: Miech et al. (2020): 32 frames at 10 a second of 200 pixels, batch 8,192 on 64 TPUs, Adam,
rate 1e-3 after a warm-up of 5,000 steps, neither temperature nor unit length, 5 captions a clip.
Their S3D has 9.9 % R@1 (text to video, zero-shot) on MSR-VTT's 1k-A. Against the paper: a ViT-B/16
that attends to time and space in turn in place of S3D, 8 frames of 224 pixels, a transformer in
place of a bag of word2vec. Not run here: neither the videos nor an accelerator were at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 150_000
    config.batch_size = 8_192

    image = models.zoo.config("ViT-B/16")
    config.model = models.zoo.of_frames(image, frames=8, over_time="divided")
    del config.model.logit
    config.model.name = "MIL-NCE ViT-B/16"
    config.model.text.update(context_length=16, bag=5)
    for tower in (config.model.video, config.model.text):
        tower.update(remat="dots", unroll=False)

    config.objectives.mil_nce = config_lib.entry("objectives", of=("video", "text"))
    config.optim.update(lr=1e-3, b2=0.999, warmup_steps=5_000, weight_decay=0.0, microbatches=8)

    config.data.train.howto100m = config_lib.entry(
        "data.train", kind="howto100m", media="video", bag=5, min_seconds=3.2
    )
    config.data.tokenizer = "openai/clip-vit-base-patch16"
    config.data.augment.update(crop_scale=(0.5, 1.0), flip=0.5)
    config.data.workers = 32

    config.checkpoint.every = 1_000
    return config_lib.variant(config, arg)
