"""CLIP4Clip: a CLIP ViT-B/32 tuned to MSR-VTT, with a transformer over frames (seqTransf).

    mmjax train --config=configs/clip4clip_msrvtt.py --workdir=runs/clip4clip \
        --config.data.train.pairs.path=MSRVTT_data.json \
        --config.evals.retrieval.path=MSRVTT_JSFUSION_test.csv

Both files lie side by side, and the videos in a folder beside them. Trained on 9,000 videos of 20
captions each, evaluated on the 1,000 pairs of 1k-A: text_to_video/R@1 is the number that people
quote. `--config.model.video.over_time=mean` is meanP, which has no new parameters.

Recipe: Luo et al. (2021): 12 frames, one a second; 32 tokens; batch 128; 5 epochs of 180,000
captions; rate 1e-4 for what is new and 1e-7 for CLIP, warm-up over a tenth. In the paper R@1 is
44.5 %, of meanP 43.1 %. Here a video is one example with one of its captions, so an epoch counts 20
times as many. Not run here: neither the videos nor an accelerator were at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 7_000
    config.batch_size = 128

    image = models.zoo.config("ViT-B/32-quickgelu")
    config.model = models.zoo.of_frames(image, frames=12, over_time="transformer", time_depth=4)
    config.model.name = "CLIP4Clip ViT-B/32"
    config.model.text.context_length = 32

    config.init_from.update(source="openai/clip-vit-base-patch32", rename=(("image", "video"),))
    config.objectives.clip = config_lib.entry("objectives", of=("video", "text"))
    config.optim.update(lr=1e-4, warmup_steps=700, weight_decay=0.2, grad_clip=1.0)
    config.optim.lr_scale = ((r"video/(?!time/)|text/|logit", 1e-3),)

    config.data.train.pairs = config_lib.entry("data.train", split="train-9k", media="video")
    config.data.tokenizer = "init_from"
    config.data.update(sampling="rate", fps=1.0, workers=8)
    config.data.augment.crop_scale = (1.0, 1.0)  # the middle, resized

    config.evals.retrieval = config_lib.entry(
        "evals", kind="retrieval", every=700, media="video", batch_size=64
    )
    config.checkpoint.update(every=700, best="retrieval/text_to_video/R@1")
    return config_lib.variant(config, arg)
