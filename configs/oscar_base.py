"""Oscar-base: one stream of words, object tags and region features; MLM and tags of others.

    mmjax train --config=configs/oscar_base.py --config.data.train.triples.path=SHARDS \
        --config.data.tokenizer=bert-base-uncased --workdir=runs/oscar --distributed

SHARDS are tars of triples: KEY.npy, float [n, 2054], what a detector found (2,048 features, then
left, top, right, bottom, width and height as shares of the picture, as Oscar and VinVL publish
them); KEY.txt, a caption; KEY.json with the names of the objects in its field "tags".

Cost: about 0.09 TFLOP a triple, 7e19 FLOP in all: 10 days of one v5e chip or 6 of one A100 at 40 %
of their peak. For your slice: `mmjax plan --config=configs/oscar_base.py --topology=v5e:4x4`.

Recipe: Li et al. (2020), sections 3 and 4: the masked words and tags, and whether the tags are the
picture's own (half of them are another's), over 35 tokens and 50 regions; batch 768, 1M steps, rate
5e-5. Here the last 15 tokens are kept for tags, the two losses read a view each, and the layers
start from random, not from BERT. They report 54.0 / 70.0 % R@1 (images, texts) on COCO's 5k test
pictures after fine-tuning. Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 1_000_000
    config.batch_size = 768

    config.model = models.zoo.config("bert-base-uncased")
    config.model.name = "Oscar-base"
    config.model.image = config_lib.entry("model", kind="regions", norm_eps=1e-12)
    config.model.text.update(depth=0, context_length=35, tags=15, remat="dots", unroll=False)
    config.model.fusion = config_lib.entry("model", kind="concat", depth=12)

    config.objectives.mlm = config_lib.entry("objectives")
    config.objectives.matching = config_lib.entry("objectives", negatives="tags")
    config.optim.update(lr=5e-5, schedule="linear", warmup_steps=10_000, weight_decay=0.05)
    config.optim.update(b2=0.999, eps=1e-8, grad_clip=1.0)

    config.data.train.triples = config_lib.entry("data.train", media="regions", tags="json:tags")
    config.data.tokenizer = "bert-base-uncased"
    config.data.workers = 8

    config.checkpoint.every = 5_000
    return config_lib.variant(config, arg)
