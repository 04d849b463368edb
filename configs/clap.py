"""CLAP: sounds and captions in one space, HTS-AT on ten seconds of 48 kHz and RoBERTa.

    mmjax train --config=configs/clap.py --config.data.train.pairs.path=SHARDS \
        --workdir=runs/clap --distributed

SHARDS hold KEY.flac (or another sound) with KEY.txt or KEY.json beside it. The text tower starts
from RoBERTa. LAION's audio tower starts from a classifier of AudioSet, which mmjax does not read:
here it starts anew; --config.init_from.source=laion/clap-htsat-unfused
--config.init_from.parts='audio/,text/' starts both from their CLAP.

Cost: on 16 v5e chips no step is faster than 0.208 s by `mmjax plan` (bound by memory, MFU at most
28 %), so the run takes at least 47 minutes; 5.2 of 15.75 GiB a chip. For your slice: `mmjax plan
--config=configs/clap.py --topology=v5e:4x4`.

Recipe: Wu et al. (2023) and LAION's code (experiment_scripts/train-htsat-roberta.sh and its like on
three nodes): Adam at 1e-4 without weight decay, 3,200 steps of warm-up, batch 2,304, 45 epochs of
LAION-Audio-630K with AudioCaps and Clotho; a random ten seconds of longer sounds, shorter ones
repeated. A loss for each direction has a scale of its own. For their model without feature fusion
and with AudioSet in its data they report 92.75 % zero-shot on the first fold of ESC-50 (README of
LAION-AI/CLAP). Not run here: no accelerator was at hand.
"""

from mmjax import config as config_lib
from mmjax import models


def get_config(arg=None):
    config = config_lib.default()
    config.total_steps = 13_500
    config.batch_size = 2_304

    config.model = models.zoo.config("clap-htsat-unfused")
    config.model.audio.remat = "full"
    config.model.text.update(remat="dots", unroll=False, context_length=77)
    config.init_from.update(source="FacebookAI/roberta-base", parts=("text/",))

    pairs = {"kind": "infonce", "of": ("audio", "text"), "weight": 0.5}
    config.objectives.to_text = config_lib.entry("objectives", **pairs)
    config.objectives.to_audio = config_lib.entry(
        "objectives", **pairs, direction="backward", scale="logit_text"
    )
    config.optim.update(lr=1e-4, b2=0.999, eps=1e-8, warmup_steps=3_200, weight_decay=0.0)
    config.optim.microbatches = 4

    config.data.train.pairs = config_lib.entry("data.train", media="audio")
    config.data.tokenizer = "FacebookAI/roberta-base"
    config.data.text_lengths = (32, 77)
    config.data.workers = 16

    config.checkpoint.every = 300
    return config_lib.variant(config, arg)
