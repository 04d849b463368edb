"""The checks of a config before the first step: each failure is one sentence with a remedy."""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax import config as config_lib
from mmjax import objectives
from mmjax.config import Key
from mmjax.errors import UserError
from mmjax.objectives.registry import is_frozen, teacher_of
from mmjax.training import profile

_ENTRY = re.compile(r"^(data\.train|objectives|teachers|evals)\.([^.]+)\.(.+)$")


def validate(config: ConfigDict) -> None:
    """Checks names, types and values of all keys, and that they fit each other.

    Raises:
      UserError: names the key, and the nearest right one or the remedy.
    """
    for name in config.objectives:
        objectives.options(name)  # an unknown objective is named before its options
    present = {path: value for path, value in leaves(config)}
    for path, value in present.items():
        _check_value(path, value, key_of(path))
    for path, _ in leaves(config_lib.default()):
        if path not in present:
            raise UserError(
                f"config.{path} is missing: start the config from mmjax.config.default()."
            )
    _check_required(config)
    _check_model(config)
    _check_best(config)
    _check_profile(config)
    if not any(entry.weight for entry in config.objectives.values()):
        raise UserError(
            "config.objectives trains nothing: add one with a weight above 0, e.g. "
            "config.objectives.clip = entry('objectives')."
        )
    if not config.data.train:
        raise UserError("config.data.train has no source: add entry('data.train', path=...).")
    for name, source in config.data.train.items():
        if not 0 < source.weight < float("inf"):
            raise UserError(
                f"config.data.train.{name}.weight={source.weight}: a share of the mixture is above "
                "0; remove the source if none of it is wanted."
            )
        if source.run < 0:
            raise UserError(f"config.data.train.{name}.run={source.run}: 0 or more are wanted.")


def key_of(path: str) -> Key:
    """The key of a path such as "data.train.mine.path"; UserError names the nearest if unknown."""
    known = {key.path: key for key in config_lib.KEYS}
    entry = _ENTRY.match(path)
    if entry:
        kind, name, rest = entry.groups()
        if kind == "objectives" and rest in objectives.options(name):
            return Key(path, objectives.options(name)[rest], "")
        pattern = f"{kind}.*.{rest}"
        options = [key.replace("*", name) for key in known if key.startswith(f"{kind}.*.")]
        if kind == "objectives":
            options += [f"objectives.{name}.{option}" for option in objectives.options(name)]
    else:
        pattern, options = path, list(known)
    if pattern not in known:
        near = difflib.get_close_matches(path, options, n=1, cutoff=0.0)[0]
        raise UserError(f"config.{path}: there is no such key; the nearest is config.{near}.")
    return known[pattern]


def leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every key; None where nothing is set."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _check_value(path: str, value: Any, key: Key) -> None:
    wanted = key.type()
    if value is None:
        return
    right = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
    if not right and not (wanted is float and type(value) is int):
        raise UserError(f"config.{path}={value!r}: a {wanted.__name__} is wanted. {key.meaning}")
    if key.choices and value not in key.choices:
        near = difflib.get_close_matches(str(value), key.choices, n=1, cutoff=0.0)[0]
        raise UserError(
            f"config.{path}={value!r}: choose one of {', '.join(key.choices)} (nearest: {near})."
        )


def _check_required(config: ConfigDict) -> None:
    for path, value in leaves(config):
        if value is None and not key_of(path).optional:
            raise UserError(f"config.{path} must be given: {key_of(path).meaning}")


def _check_model(config: ConfigDict) -> None:
    towers = config.model.towers
    if not towers or set(towers) - {"image", "text"}:
        raise UserError(
            f"config.model.towers={towers!r}: choose ('image', 'text'), ('image',) or ('text',)."
        )
    for name in towers:
        tower = config.model[name]
        if name == "image" and tower.kind == "resnet":
            _check_resnet(tower, config.init_from.source)
        elif name == "image" and tower.kind == "regions":
            continue  # it has no layers
        elif tower.width % tower.heads:
            raise UserError(
                f"config.model.{name}: heads={tower.heads} does not divide width={tower.width}."
            )
    image, text = config.model.image, config.model.text
    if image.pixel_head and image.patch_dropout:
        raise UserError(
            "config.model.image.pixel_head wants every patch: set config.model.image.patch_dropout="
            "0."
        )
    if "image" in towers and image.kind == "vit" and image.pool == "queries":
        if image.pixel_head:
            raise UserError(
                "config.model.image.pixel_head wants the patches' own tokens: set "
                "config.model.image.pool to another than 'queries'."
            )
        if image.queries < 2 or config.model.embed_dim % image.pool_heads:
            raise UserError(
                f"config.model.image: queries={image.queries} must be 2 or more, and pool_heads="
                f"{image.pool_heads} must divide config.model.embed_dim={config.model.embed_dim}."
            )
    if "text" in towers and text.pool == "appended" and (not text.causal or text.mask_padding):
        raise UserError(
            "config.model.text.pool='appended' has a mask of its own: set causal=True and "
            "mask_padding=False."
        )
    if image.kind == "vit" and image.patch_size > image.size:
        raise UserError(
            f"config.model.image.patch_size={image.patch_size} is larger than the image "
            f"(size={image.size})."
        )
    for name in towers:
        tower = config.model[name]
        embeds = name == "text" or tower.kind != "regions"
        if embeds and tower.head in ("none", "tanh") and tower.width != config.model.embed_dim:
            raise UserError(
                f"config.model.{name}.head={tower.head!r} wants width={tower.width} equal to "
                f"config.model.embed_dim={config.model.embed_dim}; or set head='linear'."
            )
    _check_fusion(config.model)
    _check_segments(config)
    too_long = [n for n in config.data.text_lengths if n > text.context_length]
    if too_long:
        raise UserError(
            f"config.data.text_lengths: {too_long[0]} is above "
            f"config.model.text.context_length={text.context_length}."
        )
    if config.data.text_lengths and not ignores_padding(text):
        raise UserError(
            "config.data.text_lengths must be () for this text tower: it attends to its padding, "
            "so shorter texts would give other embeddings."
        )


def _check_resnet(image: ConfigDict, init_from: str) -> None:
    if not init_from:
        raise UserError(
            "config.model.image.kind='resnet' cannot be trained from scratch: its batch norms keep "
            "the statistics they come with. Set config.init_from.source to weights of a resnet, or "
            "train a vit."
        )
    if len(image.stages) != 4 or image.size % 32 or image.width % 2:
        raise UserError(
            f"config.model.image: a resnet has four stages={image.stages}, a size={image.size} "
            f"that 32 divides and an even width={image.width}."
        )
    if 32 * image.width % image.heads:
        raise UserError(
            f"config.model.image: heads={image.heads} does not divide the resnet's "
            f"32 x width={32 * image.width}."
        )


def ignores_padding(text: ConfigDict) -> bool:
    """Whether a text tower gives the same with less padding: nothing that is kept looks at it."""
    return (text.causal or text.mask_padding) and text.pool not in ("last", "appended")


def _check_profile(config: ConfigDict) -> None:
    try:
        profile.parse(config.profile.steps)
    except ValueError as error:
        raise UserError(
            f"config.profile.steps={config.profile.steps!r} should be FIRST:END with 1 <= FIRST < "
            "END, as 10:15."
        ) from error


def _check_best(config: ConfigDict) -> None:
    best, every = config.checkpoint.best, config.checkpoint.every
    if not best:
        return
    name, _, metric = best.partition("/")
    if name not in config.evals or not metric:
        names = ", ".join(sorted(config.evals)) or "none"
        raise UserError(
            f"config.checkpoint.best={best!r} should be NAME/METRIC of an evaluation (there is: "
            f"{names})."
        )
    evaluated = config.evals[name].every
    if not evaluated or (evaluated % every and every % evaluated):
        raise UserError(
            f"config.checkpoint.best={best!r}: config.evals.{name}.every={evaluated} does not meet "
            f"config.checkpoint.every={every}; let one divide the other."
        )


def _check_fusion(model: ConfigDict) -> None:
    if model.fusion.style == "none":
        return
    if len(model.towers) != 2:
        raise UserError(
            f"config.model.fusion.style={model.fusion.style!r} fuses two towers, and "
            f"config.model.towers={model.towers!r}: set it to 'none'."
        )
    if model.image.kind == "resnet":
        raise UserError(
            f"config.model.fusion.style={model.fusion.style!r} fuses the tokens of a vision "
            "transformer: set config.model.image.kind='vit'."
        )
    if model.fusion.style != "concat" and not model.fusion.depth:
        raise UserError(
            f"config.model.fusion.depth=0 is a joint head on both towers, which style="
            f"{model.fusion.style!r} has not: set config.model.fusion.style='concat'."
        )


def _check_segments(config: ConfigDict) -> None:
    """Of the text's tags, and of the image's regions, whose number differs from one to the next."""
    model, text, style = config.model, config.model.text, config.model.fusion.style
    if model.image.kind == "regions" and "image" in model.towers:
        if style not in ("concat", "bottleneck"):
            raise UserError(
                "config.model.image.kind='regions' is read by a fusion that masks padding: set "
                "config.model.fusion.style to concat or bottleneck."
            )
        if min(model.image.regions, model.image.region_width) < 1:
            raise UserError("config.model.image.regions and region_width must be 1 or more.")
    if not text.tags:
        return
    if style != "concat" or text.depth or text.token_types < 2:
        raise UserError(
            f"config.model.text.tags={text.tags} are a third segment of an early fusion: set "
            "config.model.fusion.style='concat', config.model.text.depth=0 and token_types=2."
        )
    if not 2 <= text.tags <= text.context_length - 2:
        raise UserError(
            f"config.model.text.tags={text.tags} leaves no room: of context_length="
            f"{text.context_length} places words and tags need two each."
        )
    if config.data.text_lengths:
        raise UserError(
            "config.data.text_lengths must be (): the tags, config.model.text.tags, are at the end."
        )
    if "caption" in config.objectives:
        raise UserError(
            "config.objectives.caption would say the tags, too: set config.model.text.tags=0."
        )


def validate_on_mesh(config: ConfigDict, sizes: Mapping[str, int]) -> None:
    """Checks what depends on the mesh: `sizes` of its axes `data`, `fsdp`, `tensor`."""
    devices, parts = sizes["data"] * sizes["fsdp"], config.optim.microbatches
    batches = {"batch_size": (config.batch_size, devices * parts)}
    for name, spec in config.evals.items():
        if spec.task == "loss":  # the others fill their last batch up
            batches[f"evals.{name}.batch_size"] = (spec.batch_size, devices)
    for key, (batch, share) in batches.items():
        if batch % share:
            near = max(share, round(batch / share) * share)
            raise UserError(
                f"config.{key}={batch} does not divide over {devices} devices (data × fsdp)"
                + (f" and {parts} microbatches" if share > devices else "")
                + f"; the nearest that does is {near}."
            )
    for name in config.model.towers:
        if name == "image" and config.model.image.kind == "regions":
            continue  # no heads to split
        heads = config.model[name].heads
        if heads % sizes["tensor"]:
            raise UserError(
                f"config.mesh.tensor={sizes['tensor']} does not divide config.model.{name}.heads="
                f"{heads}: heads are never split."
            )


def validate_on_platform(config: ConfigDict, platform: str) -> None:
    """Checks that the kernels asked for exist on "cpu", "gpu" or "tpu"."""
    for name in config.model.towers:
        kernel = config.model[name].attention
        home = {"cudnn": "gpu", "splash": "tpu"}.get(kernel, platform)
        if home != platform:
            raise UserError(
                f"config.model.{name}.attention={kernel!r} runs on {home}s, and this is a "
                f"{platform}: set it to 'auto'."
            )


_REMEDIES = {
    "logit_bias": "set config.model.logit_bias_init, e.g. -10.0",
    "match_logits": "set config.model.fusion.style to concat, cross or bottleneck",
    "fused_scores": "set config.model.fusion.style, and config.model.text.mlm_head=True",
    "caption_scores": "set config.model.fusion.style to concat or cross (a bottleneck is not "
    "causal), and config.model.text.mlm_head=True",
    "text_scores": "set config.model.text.mlm_head=True",
    "text_hidden": "set config.model.text.mlm_head=True",
    "patch_pixels": "set config.model.image.pixel_head=True",
    "image_embed": "a tower of depth 0 embeds nothing; this fusion is early",
    "text_embed": "a tower of depth 0 embeds nothing; this fusion is early",
}


def validate_outputs(goals: Mapping[str, tuple[Any, float]], given: tuple[str, ...]) -> None:
    """Checks that the model can give what each objective requires, of views that there are."""
    made = {"plain"}.union(*(o.views.keys() | o.pairs.keys() for o, _ in goals.values()))
    for name, (objective, _) in goals.items():
        for view, outputs in objective.requires.items():
            if is_frozen(view):
                continue
            if view not in made:
                raise UserError(
                    f"config.objectives.{name} reads the view that config.objectives.{view} makes: "
                    f"add config.objectives.{view} = entry('objectives')."
                )
            lacking = [output for output in outputs if output not in given]
            if lacking:
                remedy = _REMEDIES.get(lacking[0], f"this model gives {', '.join(given)}")
                raise UserError(
                    f"config.objectives.{name} needs the model output {lacking[0]!r}: {remedy}."
                )


def validate_teachers(
    config: ConfigDict,
    goals: Mapping[str, tuple[Any, float]],
    teachers: Mapping[str, tuple[str, ...]],
) -> None:
    """Checks that every teacher is asked, and gives what it is asked for; `teachers`: the outputs
    of each by name. And that there is an average for the objectives that want one."""
    read = {view for objective, _ in goals.values() for view in objective.requires}
    asked = {teacher_of(view)[0] for view in read if view.startswith("teacher/")}
    for teacher in teachers:
        if teacher not in asked and not config.teachers[teacher].start:
            raise UserError(
                f"config.teachers.{teacher} teaches nothing: name it in the `teachers` of an "
                "objective, e.g. distill_similarity, or remove it."
            )
    for name, (objective, _) in goals.items():
        for view, outputs in objective.requires.items():
            if view == "ema" and not config.optim.ema:
                raise UserError(
                    f"config.objectives.{name} needs averaged parameters: set config.optim.ema, "
                    "e.g. 0.995."
                )
            if view.startswith("teacher/"):
                _check_teacher(name, teacher_of(view)[0], outputs, teachers)


def _check_teacher(
    objective: str,
    teacher: str,
    outputs: tuple[str, ...],
    teachers: Mapping[str, tuple[str, ...]],
) -> None:
    key = f"config.objectives.{objective}"
    if teacher not in teachers:
        known = ", ".join(teachers) or "none"
        raise UserError(
            f"{key}.teachers: there is no config.teachers.{teacher} (there is: {known}); add "
            f"config.teachers.{teacher} = entry('teachers', source=...)."
        )
    for output in outputs:
        if output not in teachers[teacher]:
            raise UserError(
                f"{key} needs the output {output!r} of teacher {teacher!r}, which gives "
                f"{', '.join(teachers[teacher])}."
            )


def validate_vocabulary(config: ConfigDict, vocab_size: int) -> None:
    """Checks that every id of the tokenizer has a row in the embedding."""
    rows = config.model.text.vocab_size
    if rows < vocab_size:
        raise UserError(
            f"config.model.text.vocab_size={rows} is smaller than the vocabulary of the tokenizer "
            f"({config.data.tokenizer}): set it to {vocab_size} or more."
        )


def validate_resume(old: ConfigDict, new: ConfigDict, workdir: Any) -> None:
    """Checks that a run goes on as it began: only keys marked `resumable` may differ."""
    before, after = dict(leaves(old)), dict(leaves(new))
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path) and not key_of(path).resumable:
            raise UserError(
                f"{workdir} holds a run with config.{path}={before.get(path)!r}, not "
                f"{after.get(path)!r}: give it back that value, or start in another --workdir."
            )
