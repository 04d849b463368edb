"""VideoPrism-LvT fine-tuned on your own videos and texts: B at 288 pixels, 16 frames.

    mmjax train --config=configs/videoprism_lvt.py --config.data.train.pairs.path=clips.csv \
        --workdir=runs/videoprism --distributed

`clips.csv` has the columns video, caption and, where a row is a part of a file, start and end in
seconds. The weights are google/videoprism-lvt-base-f16r288; the trained model is written back by
`mmjax export --workdir=runs/videoprism --format=huggingface --output=DIR`.

Cost: on 16 v5e chips no step is faster than 0.70 s by `mmjax plan
--config=configs/videoprism_lvt.py --topology=v5e:4x4` (bound by memory, MFU at most 43 %), so the
run takes at least 23 minutes; 9.1 of 15.75 GiB a chip. In one microbatch and with remat=dots it
would ask for 28.3.

The model is that of Zhao et al. (2024); its B has 50.1 % zero-shot R@1 (text to video) on MSR-VTT's
1k-A. Nobody has published how it is fine-tuned: a low rate that falls by a factor a layer, and an
average of the parameters, as of configs/finetune_clip.py. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 2_000
    config.batch_size = 256

    config.model = models.zoo.config("VideoPrism-LvT-B")
    config.model.video.update(remat="full", unroll=False)
    config.model.text.update(remat="dots", unroll=False)
    config.init_from.source = "google/videoprism-lvt-base-f16r288"
    config.data.tokenizer = "init_from"

    config.objectives.clip = config_lib.entry("objectives", of=("video", "text"))
    config.optim.update(lr=1e-5, b2=0.98, warmup_steps=100, weight_decay=0.05, grad_clip=1.0)
    config.optim.update(layer_decay=0.75, ema=0.999, microbatches=4)

    config.data.train.pairs = config_lib.entry("data.train", media="video")
    config.data.augment.crop_scale = (0.9, 1.0)
    config.data.workers = 16

    config.checkpoint.every = 500
    return config_lib.variant(config, arg)
