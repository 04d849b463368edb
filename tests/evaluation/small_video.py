"""A tiny video model and generated videos for the evaluators' tests."""

import functools

import small_run

from mmjax import config as config_lib
from mmjax import evaluation, models

T = 4


@functools.cache
def run():
    """(config, model, params): the model of `small_run`, its image tower on four frames as "video".

    Random weights, so that it tells videos apart; a mean over time has none of its own.
    """
    config, _, params = small_run.run()
    config = config.copy_and_resolve_references()
    with config.unlocked():
        frame = {key: value for key, value in config.model.image.items() if key != "kind"}
        del config.model["image"]
        config.model.video = config_lib.entry("model", kind="video_vit", frames=T, **frame)
        config.objectives.clip.of = ("video", "text")
    params = {"video" if name == "image" else name: leaves for name, leaves in params.items()}
    return config, models.from_config(config.model), params


def build(data=None, without="", **spec):
    """The evaluator of a spec for it; `data`: changes to config.data; `without` a part."""
    config, model, _ = run()
    model = models.Graph({name: part for name, part in model.parts.items() if name != without})
    if data:
        config = config.copy_and_resolve_references()
        config.data.update(data)
    subject = evaluation.Subject.of(config, model, small_run.tokenizer())
    media = {} if "records:" in spec["path"] else {"media": "video"}
    return evaluation.build("e", media | spec, subject)


def embed(batch, *outputs):
    """The named outputs of one plain batch."""
    _, model, params = run()
    return small_run.apply(model)({"params": params}, batch, outputs)
