"""FLIP ViT-L/16: half of the patches are dropped, and at the end none, batch 65,536, for a pod.

    mmjax plan  --config=configs/flip_l16.py --topology=v5p:4x4x8
    mmjax train --config=configs/flip_l16.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=google-bert/bert-base-uncased --workdir=runs/flip --distributed

Recipe: Li et al. (2023, "Scaling Language-Image Pre-training via Masking"): 12.8B pairs of
LAION-400M with 50 % of the patches dropped, batch 65,536, a rate of 4e-6 for each 256 pairs; then
0.32 epochs of whole images at 4e-8, with a warm-up of ours. ViT-L/16 reaches 74.3 % zero-shot
ImageNet. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models

SEEN, WHOLE = 12_800_000_000, 128_000_000  # pairs with dropped patches, pairs of whole images
BATCH = 65_536


def get_config(arg=None):
    config = config_lib.default()
    config.batch_size = BATCH
    config.total_steps = (SEEN + WHOLE) // BATCH

    config.model = models.zoo.config("ViT-L/14")
    config.model.name = "FLIP-L/16"
    config.model.image.update(
        patch_size=16, pool="mean", position="sincos", norm_pre=False, patch_bias=True,
        patch_dropout=0.5,
    )  # fmt: skip
    config.model.text.update(vocab_size=30_522, context_length=32, causal=False, pool="last")
    for tower in (config.model.image, config.model.text):
        tower.update(remat="dots", unroll=False)

    config.objectives.clip = config_lib.entry("objectives")
    config.optim.update(lr=1.024e-3, b2=0.95, warmup_steps=780, weight_decay=0.2)
    config.mesh.update(data=-1, fsdp=8, tensor=1)
    config.stages.whole = config_lib.entry(
        "stages", start=SEEN / (SEEN + WHOLE), fresh=True,
        changes=("model.image.patch_dropout=0.0", "optim.lr=1.024e-5", "optim.warmup_steps=100"),
    )  # fmt: skip

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "google-bert/bert-base-uncased"
    config.data.augment.crop_scale = (0.5, 1.0)
    config.data.workers = 16

    config.checkpoint.every = 2_000
    return config_lib.variant(config, arg)
