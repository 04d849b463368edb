"""Frozen in Time: divided space–time attention on WebVid, first one frame a video, then four.

    mmjax train --config=configs/frozen_webvid.py --workdir=runs/frozen1 --distributed \
        --config.data.train.pairs.path=results_2M_train.csv
    mmjax train --config=configs/frozen_webvid.py:runs/frozen1 --workdir=runs/frozen4 \
        --config.data.train.pairs.path=results_2M_train.csv --distributed

After the colon stands the workdir of the first stage, whose parameters the second starts from. With
one frame the tower is the image tower, so that the first stage may read images, too: add
`config.data.train.images` with CC3M's shards. The videos are at videos/PAGE_DIR/VIDEOID.mp4 beside
the CSV.

Cost: on 16 v5e chips no step of the second stage is faster than 0.36 s by `mmjax plan
--config=configs/frozen_webvid.py --config.model.video.frames=4 --topology=v5e:4x4` (bound by
memory, MFU at most 26 %), so its 15,000 steps take at least 1.5 hours; 13.8 of 15.75 GiB a chip.

Recipe: Bain et al. (2021): ViT-B/16, 224 pixels, embeddings of 256, a fixed temperature of 0.05.
Theirs, trained on CC3M and WebVid-2M, has 31.0 % R@1 (text to video) on MSR-VTT's 1k-A after
fine-tuning. Against the paper: both towers start from OpenAI's CLIP ViT-B/16 and keep its embedding
of 512, where theirs start from ViT (ImageNet-21k) and DistilBERT. Not run here: neither the videos
nor an accelerator were at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    first = arg in (None, "smoke")
    config = config_lib.default()
    config.total_steps = 60_000 if first else 15_000
    config.batch_size = 512

    image = models.zoo.config("ViT-B/16-quickgelu")
    config.model = models.zoo.of_frames(image, frames=1 if arg is None else 4, over_time="divided")
    del config.model.logit
    config.model.name = "Frozen in Time ViT-B/16"
    for tower in (config.model.video, config.model.text):
        tower.update(remat="dots", unroll=False)

    if first:
        config.init_from.source = "openai/clip-vit-base-patch16"
        config.init_from.rename = (("image", "video"),)
    else:
        config.init_from.source = arg
    config.objectives.infonce = config_lib.entry(
        "objectives", of=("video", "text"), direction="both", temperature=0.05
    )
    config.optim.update(lr=3e-5, warmup_steps=1_000, weight_decay=0.01, grad_clip=1.0)

    config.data.train.pairs = config_lib.entry("data.train", media="video")
    config.data.tokenizer = "openai/clip-vit-base-patch16"
    config.data.augment.update(crop_scale=(0.5, 1.0), flip=0.5)
    config.data.workers = 16

    config.checkpoint.every = 1_000
    return config_lib.variant(config, arg if first else None)
