"""OpenVision 2 ViT-L/14: an image tower that learns from captions alone, batch 32,768, for a pod.

    mmjax plan  --config=configs/openvision2_l14.py --topology=v5p:4x4x4
    mmjax train --config=configs/openvision2_l14.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=google-bert/bert-base-uncased --workdir=runs/ov2 --distributed

Recipe: Liu et al. (2025, "OpenVision 2") and its published code: every patch is encoded, and a
random 35 % of the tower's outputs come before the caption in a causal decoder of 12 layers; 12.8B
pairs of 84 px, then 1.0B of 224 px in batches of half the size, with moments of their own. The
captions are synthetic (ReCap-DataComp-1B v2), of 128 tokens at most. The model is made for language
models that see; the paper gives no zero-shot accuracy, as there is no text tower. Training took 57
hours on 512 chips of v4, and 83 with a contrastive loss beside it. There colours are altered for 80
% of the images, here for all. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models

SEEN, LARGER = 12_800_000_000, 1_024_000_000  # pairs of each stage
BATCH = 32_768


def get_config(arg=None):
    config = config_lib.default()
    config.batch_size = BATCH
    first, second = SEEN // BATCH, LARGER // (BATCH // 2)
    config.total_steps = first + second

    config.model = models.zoo.config("ViT-L/14")
    config.model.name = "OpenVision 2 L/14"
    del config.model.logit  # there is no contrast
    config.model.image.update(
        size=84, pool="mean", position="sincos", norm_pre=False, patch_bias=True
    )
    config.model.text.update(
        depth=0, vocab_size=32_000, context_length=128, causal=True, pool="last", mlm_head=True
    )
    for tower in (config.model.image, config.model.text):
        tower.update(remat="dots", unroll=False)
    config.model.fusion = config_lib.entry("model", kind="concat", depth=12, image_dropout=0.65)

    config.objectives.caption = config_lib.entry("objectives")
    config.optim.update(lr=1.024e-3, b2=0.95, warmup_steps=1_560, weight_decay=0.2)
    config.stages.larger = config_lib.entry(
        "stages",
        start=first / config.total_steps,
        fresh=True,
        changes=(
            "model.image.size=224", f"batch_size={BATCH // 2}", "optim.lr=2.56e-5",
            "optim.warmup_steps=1_560",
        ),
    )  # fmt: skip

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "google-bert/bert-base-uncased"
    config.data.augment.update(
        crop_scale=(0.4, 1.0), brightness=0.32, contrast=0.32, saturation=0.32, hue=0.08,
        grayscale=0.2,
    )  # fmt: skip
    config.data.workers = 16

    config.checkpoint.every = 2_000
    return config_lib.variant(config, arg)
