"""SigLIP 2 NaFlex ViT-B/16: images in their own shape, begun from a run of siglip2_b16, for a pod.

    mmjax plan  --config=configs/siglip2_naflex_b16.py --topology=v5e:16x16
    mmjax train --config=configs/siglip2_naflex_b16.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=google/siglip2-base-patch16-naflex \
        --config.init_from.source=runs/siglip2/checkpoints/1098000 --workdir=runs/naflex

Recipe: Tschannen et al. (2025, "SigLIP 2"), section 2.5: after 90 % of a run at 256 px, 3.75 times
as many steps as were left of it, each batch of 128, 256, 576, 784 or 1,024 patches, with the
sigmoid loss and LocCa and without distillation. There the batch is halved at 1,024 patches and such
steps are twice as many; here a batch has as many images as 16.8 million patches hold, 32,768 at
most.
The rate is ours. SigLIP2-B/16-NaFlex reaches 78.5 % zero-shot ImageNet at 256 patches. Not run
here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 457_000
    config.batch_size = 32_768

    config.model = models.zoo.config("SigLIP2-B/16-naflex")
    config.model.words = config_lib.entry(
        "model", kind="transformer", depth=0, width=768, heads=12, mlp_dim=3072,
        vocab_size=256_000, context_length=64, mlm_head=True, boxes=True,
    )  # fmt: skip
    config.model.decoder = config_lib.entry("model", kind="cross", of=("image", "words"), depth=6)
    for part in (config.model.image, config.model.text, config.model.words):
        part.update(remat="dots", unroll=False)

    config.init_from.source = "runs/siglip2"
    config.objectives.siglip = config_lib.entry("objectives")
    config.objectives.locca = config_lib.entry("objectives", of="decoder", text="words")
    config.optim.update(lr=1e-4, b2=0.95, eps=1e-8, weight_decay=1e-4, grad_clip=1.0)
    config.optim.microbatches = 8
    config.mesh.update(data=-1, fsdp=8, tensor=1)

    config.data.train.pairs = config_lib.entry("data.train", boxes="json:boxes")
    config.data.tokenizer = "google/siglip2-base-patch16-naflex"
    config.data.update(
        image_lengths=(128, 256, 576, 784, 1024), token_budget=16_384 * 1024, batch_multiple=2048
    )
    config.data.augment.crop_aspect = "image"
    config.data.workers = 16

    config.checkpoint.every = 2_000
    return config_lib.variant(config, arg)
