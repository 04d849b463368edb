"""SigLIP 2 ViT-B/16 after its training: a teacher helps to choose the examples, for a pod.

    mmjax plan  --config=configs/siglip2_b16_acid.py --topology=v5e:16x16 \
        --config.teachers.teacher.source=random:SigLIP2-So400m/14-224
    mmjax train --config=configs/siglip2_b16_acid.py --config.data.train.pairs.path=SHARDS \
        --config.data.tokenizer=google/siglip2-base-patch16-224 --workdir=runs/acid \
        --config.init_from.source=runs/siglip2/checkpoints/1159000 \
        --config.teachers.teacher.source=google/siglip2-so400m-patch14-224

Recipe: Tschannen et al. (2025, "SigLIP 2"), section 2.4: the smallest models go on for 4B examples
with the sigmoid loss alone, a rate of 1e-5 and no weight decay; by ACID (Udandarao et al., 2024)
half of the examples that are loaded are trained on, of a B/32 a quarter
(config.data.curation.keep). Read here as 4B examples that are trained on, of 8B that are loaded.
Their teacher, a So400m tuned on 1B curated examples, is not published; the released So400m takes
its place. The checkpoint is the last of siglip2_b16 at 256 px. The paper has no numbers for this
step alone. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 122_000
    config.batch_size = 32_768

    config.model = models.zoo.config("SigLIP2-B/16-224")
    config.model.name = "SigLIP2-B/16-256"
    config.model.image.size = 256
    for tower in (config.model.image, config.model.text):
        tower.update(remat="dots", unroll=False)

    config.init_from.source = "runs/siglip2"
    config.teachers.teacher = config_lib.entry("teachers")
    config.objectives.siglip = config_lib.entry("objectives")
    config.optim.update(lr=1e-5, b2=0.95, eps=1e-8, weight_decay=0.0, grad_clip=1.0)
    config.optim.microbatches = 8
    config.mesh.update(data=-1, fsdp=8, tensor=1)

    config.data.curation.update(keep=0.5, teacher="teacher")
    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer = "google/siglip2-base-patch16-224"
    config.data.update(resize="squash", interpolation="bilinear")  # as published: big_vision's
    config.data.workers = 16

    config.checkpoint.every = 2_000
    return config_lib.variant(config, arg)
