"""CLIP from scratch in minutes on two CPU cores: emoji in three drawing styles, tested on a fourth.

    make demo                       (fetches the data, trains, evaluates, exports, draws)
    mmjax train --config=configs/demo.py --workdir=runs/demo    (the training alone)

Data: google, fluent and openmoji pictures with emojibase's labels, tags and categories, written by
`python -m demo.prepare`. The twitter style is never trained on or tuned on: settings were chosen by
training on fluent and openmoji alone and testing on google.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 950
    config.batch_size = 256

    config.model = models.zoo.config("tiny")
    config.model.update(name="emoji ViT-4/8-32", embed_dim=128)
    config.model.image.update(size=32, patch_size=8, width=128, depth=4, heads=2, mlp_dim=512)
    config.model.image.update(mean=(0.6, 0.55, 0.5), std=(0.35, 0.35, 0.35))
    config.model.text.update(width=64, depth=1, heads=1, mlp_dim=256)
    config.model.text.update(vocab_size=2048, context_length=16)
    for tower in (config.model.image, config.model.text):
        tower.activation = "quick_gelu"

    config.objectives.clip = config_lib.entry("objectives")
    # Muon learns these matrices several times faster than Adam; all else wants a lower rate.
    config.optim.update(name="muon", lr=1e-2, warmup_steps=20, weight_decay=0.1)
    config.optim.lr_scale = ((r".*(embed|norm|bias|logit)", 0.2),)

    shares = {"google": 1.0, "fluent": 1.0, "openmoji": 1.0, "openmoji_black": 0.3}
    for style, weight in shares.items():
        config.data.train[style] = config_lib.entry(
            "data.train", path=f"data/emoji/{style}", caption="json:captions", weight=weight
        )
    config.data.tokenizer = "captions:2048"
    config.data.augment.update(
        crop_scale=(0.5, 1.5), crop_ratio=(0.75, 1.33), rotate=15.0, translate=0.05, flip=0.5,
        brightness=0.3, contrast=0.3, saturation=0.5, hue=0.08, grayscale=0.15,
    )  # fmt: skip
    config.data.workers = 1

    twitter = {"path": "data/emoji/twitter", "label": "label"}
    config.evals.twitter = config_lib.entry(
        "evals", kind="retrieval", candidates="data/emoji/labels.txt", **twitter
    )
    config.evals.groups = config_lib.entry(
        "evals", kind="classification", classes="data/emoji/groups.txt", **twitter
    )
    config.checkpoint.every = 250
    config.log.every = 25
    return config_lib.variant(config, arg)
