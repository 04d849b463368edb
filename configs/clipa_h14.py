"""CLIPA-v2 ViT-H/14: small images and short texts first, then larger ones, batch 65,536, for a pod.

    mmjax plan  --config=configs/clipa_h14.py --topology=v5p:4x4x8
    mmjax train --config=configs/clipa_h14.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=google-bert/bert-base-uncased --workdir=runs/clipa --distributed

Recipe: Li et al. (2023, "CLIPA-v2"): 12.8B pairs of 84 px and 8 tokens, then 0.5B of 224 px and 32
tokens of which 30 % of the patches are dropped, then 0.13B of 336 px with 40 % dropped; each stage
with a rate and moments of its own. It reaches 81.8 % zero-shot ImageNet on DataComp-1B. There a
text is shortened to its nouns, adjectives and verbs first; here it is cut at its end. The warm-ups
of the last two stages are ours. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models

SEEN, LARGER, LARGEST = 12_800_000_000, 512_000_000, 128_000_000  # pairs of each stage
BATCH = 65_536


def get_config(arg=None):
    config = config_lib.default()
    config.batch_size = BATCH
    first, second, third = SEEN // BATCH, LARGER // (BATCH // 2), LARGEST // (BATCH // 4)
    config.total_steps = first + second + third

    config.model = models.zoo.config("ViT-H/14")
    config.model.name = "CLIPA-H/14"
    config.model.image.update(
        size=84, pool="mean", position="sincos", norm_pre=False, patch_bias=True
    )
    config.model.text.update(vocab_size=32_000, context_length=8, causal=False, pool="last")
    for tower in (config.model.image, config.model.text):
        tower.update(remat="dots", unroll=False)

    config.objectives.clip = config_lib.entry("objectives")
    config.optim.update(lr=2.048e-3, b2=0.95, warmup_steps=3_200, weight_decay=0.2)
    config.mesh.update(data=-1, fsdp=16, tensor=1)
    config.stages.larger = config_lib.entry(
        "stages",
        start=first / config.total_steps,
        fresh=True,
        changes=(
            "model.image.size=224", "model.image.patch_dropout=0.3", "model.text.context_length=32",
            f"batch_size={BATCH // 2}", "optim.lr=5.12e-5", "optim.warmup_steps=800",
        ),
    )  # fmt: skip
    config.stages.largest = config_lib.entry(
        "stages",
        start=(first + second) / config.total_steps,
        fresh=True,
        changes=(
            "model.image.size=336", "model.image.patch_dropout=0.4", f"batch_size={BATCH // 4}",
            "optim.lr=6.4e-6", "optim.warmup_steps=400",
        ),
    )  # fmt: skip

    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "google-bert/bert-base-uncased"
    config.data.augment.crop_scale = (0.4, 1.0)
    config.data.workers = 16

    config.checkpoint.every = 2_000
    return config_lib.variant(config, arg)
