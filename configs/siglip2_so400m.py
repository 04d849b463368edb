"""SigLIP 2 So400m in all of its stages: as siglip2_b16, and patches of 14 px at the end.

    mmjax plan  --config=configs/siglip2_so400m.py --topology=v5e:16x16
    mmjax train --config=configs/siglip2_so400m.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=google/siglip2-so400m-patch14-224 --workdir=runs/so400m2

Recipe: Tschannen et al. (2025, "SigLIP 2", arXiv:2502.14786), as configs/siglip2_b16.py has it,
with weights of self-distillation times 0.5. At 95 % patches of 16 px become patches of 14 px by the
pseudo-inverse, so that images of 224 px have the same positions. SigLIP2-So400m/14-224 reaches
83.2 % zero-shot ImageNet. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models

DISTILLED = 0.8  # share of the run after which the teacher is there


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 1_220_000
    config.batch_size = 32_768

    config.model = models.zoo.config("SigLIP2-So400m/14-224")
    config.model.name = "SigLIP2-So400m"
    config.model.image.update(size=256, patch_size=16, mask_token=True)
    config.model.words = config_lib.entry(
        "model", kind="transformer", depth=0, width=1152, heads=16, mlp_dim=4304,
        vocab_size=256_000, context_length=64, mlm_head=True, boxes=True,
    )  # fmt: skip
    config.model.decoder = config_lib.entry("model", kind="cross", of=("image", "words"), depth=13)
    for part in (config.model.image, config.model.text, config.model.words):
        part.update(remat="dots", unroll=False)

    config.objectives.siglip = config_lib.entry("objectives")
    config.objectives.locca = config_lib.entry("objectives", of="decoder", text="words")
    config.objectives.self_distill = config_lib.entry("objectives", weight=0.5, start=DISTILLED)
    config.objectives.masked_distill = config_lib.entry(
        "objectives", weight=0.5 * 0.25, start=DISTILLED
    )
    config.stages.distilled = config_lib.entry(
        "stages", start=DISTILLED, changes=("optim.ema=0.996",)
    )
    config.stages.smaller_patches = config_lib.entry(
        "stages", start=0.95, changes=("model.image.patch_size=14", "model.image.size=224")
    )
    config.optim.update(
        lr=1e-3, b2=0.95, eps=1e-8, warmup_steps=20_000, weight_decay=1e-4, grad_clip=1.0
    )
    config.optim.microbatches = 8
    config.mesh.update(data=-1, fsdp=16, tensor=1)

    config.data.train.pairs = config_lib.entry("data.train", boxes="json:boxes")
    config.data.tokenizer = "google/siglip2-so400m-patch14-224"
    config.data.update(resize="squash", interpolation="bilinear")  # as published: big_vision's
    config.data.workers = 16

    config.checkpoint.every = 2_000
    return config_lib.variant(config, arg)
