"""SigLIP 2 ViT-B/16 in all of its stages: captions and boxes, self-distillation, resolution.

    mmjax plan  --config=configs/siglip2_b16.py --topology=v5e:16x16
    mmjax train --config=configs/siglip2_b16.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=google/siglip2-base-patch16-224 --workdir=runs/siglip2 --distributed

SHARDS hold KEY.jpg, KEY.txt and KEY.json, whose field boxes has the regions of an image.

Recipe: Tschannen et al. (2025, "SigLIP 2", arXiv:2502.14786): sigmoid loss and LocCa, 40B pairs of
WebLI; from 80 % of the run on self-distillation and masked prediction by an averaged teacher, with
weights of 1 and 0.25, both times 0.25 for a B; at 95 % another resolution. SigLIP2-B/16-256 reaches
79.1 % zero-shot ImageNet. The paper has no numbers for the teacher's momentum and the heads: here
they are those of DINO. At 90 % siglip2_naflex_b16 begins. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models

DISTILLED = 0.8  # share of the run after which the teacher is there


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 1_220_000
    config.batch_size = 32_768

    config.model = models.zoo.config("SigLIP2-B/16-224")
    config.model.name = "SigLIP2-B/16-256"
    config.model.image.update(size=256, mask_token=True)
    config.model.words = config_lib.entry(
        "model", kind="transformer", depth=0, width=768, heads=12, mlp_dim=3072,
        vocab_size=256_000, context_length=64, mlm_head=True, boxes=True,
    )  # fmt: skip
    config.model.decoder = config_lib.entry("model", kind="cross", of=("image", "words"), depth=6)
    for part in (config.model.image, config.model.text, config.model.words):
        part.update(remat="dots", unroll=False)

    config.objectives.siglip = config_lib.entry("objectives")
    config.objectives.locca = config_lib.entry("objectives", of="decoder", text="words")
    config.objectives.self_distill = config_lib.entry("objectives", weight=0.25, start=DISTILLED)
    config.objectives.masked_distill = config_lib.entry(
        "objectives", weight=0.25 * 0.25, start=DISTILLED
    )
    config.stages.distilled = config_lib.entry(
        "stages", start=DISTILLED, changes=("optim.ema=0.996",)
    )
    config.stages.larger = config_lib.entry("stages", start=0.95, changes=("model.image.size=384",))
    config.optim.update(
        lr=1e-3, b2=0.95, eps=1e-8, warmup_steps=20_000, weight_decay=1e-4, grad_clip=1.0
    )
    config.optim.microbatches = 8
    config.mesh.update(data=-1, fsdp=8, tensor=1)

    config.data.train.pairs = config_lib.entry("data.train", boxes="json:boxes")
    config.data.tokenizer = "google/siglip2-base-patch16-224"
    config.data.update(resize="squash", interpolation="bilinear")  # as published: big_vision's
    config.data.workers = 16

    config.checkpoint.every = 2_000
    return config_lib.variant(config, arg)
