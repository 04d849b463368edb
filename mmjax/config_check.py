"""The checks of a config before the first step: each failure is one sentence with a remedy."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax import config as config_lib
from mmjax import objectives
from mmjax.core import curation
from mmjax.core.optim import check_schedule
from mmjax.data import buckets
from mmjax.errors import UserError
from mmjax.evaluation.tasks import keys_at
from mmjax.models.parts import check_model, kind_at, sections, vocabularies
from mmjax.models.towers.text import ignores_padding
from mmjax.objectives.registry import EMA, PLAIN, frozen_of, is_frozen, teacher_of
from mmjax.runs import profile, stages
from mmjax.schema import ADJUSTABLE, SAME_RECORDS, Keys, kind_of, leaves


def validate(config: ConfigDict) -> None:
    """Checks names, types and values of all keys, and that they fit each other.

    Raises:
      UserError: names the key, and the nearest right one or the remedy.
    """
    for section, keys in config_lib.ENTRIES.items():
        _check_entries(section, keys, config_lib.config_at(config, section))
    for name, spec in config.objectives.items():
        objectives.kind_of(name, spec)  # an unknown kind is named before its keys
    for name, spec in config.evals.items():
        keys_at(name, spec)
    for name, spec in sections(config.model).items():
        kind_at(name, spec)
    present = dict(leaves(config))
    for path, value in present.items():
        config_lib.key_of(path, config).check(path, value)
    for path, _ in leaves(config_lib.default()):
        if path not in present:
            raise UserError(
                f"config.{path} is missing: start the config from mmjax.config.default()."
            )
    check_model(config.model)
    for name, spec in vocabularies(config.model).items():
        _check_texts(name, spec, config)
    buckets.check(config)
    _check_best(config)
    profile.parse(config.profile.steps)
    for name, spec in sections(config.model).items():
        key = {"resnet": "kind", "convolutions": "stem"}.get(spec.get("stem", spec.kind))
        if key and not config.init_from.source:
            raise UserError(
                f"config.model.{name}.{key}={spec[key]!r} cannot be trained from scratch: its "
                "batch norms keep the statistics they come with. Set config.init_from.source to "
                "weights of such a tower, or train a vit of patches."
            )
    if not any(entry.weight for entry in config.objectives.values()):
        raise UserError(
            "config.objectives has no objective with a weight above 0: add one, e.g. "
            "config.objectives.clip = entry('objectives')."
        )
    if not config.data.train:
        raise UserError("config.data.train has no source: add entry('data.train', path=...).")
    check_schedule(config.optim)
    _check_stages(config)


def _check_stages(config: ConfigDict) -> None:
    for name, spec in config.objectives.items():
        if spec.start >= spec.stop:
            raise UserError(
                f"config.objectives.{name}.start={spec.start:g} is not before its stop="
                f"{spec.stop:g}: it would never be on."
            )
    starts, present = dict[float, str](), dict(leaves(config))
    for name, stage in config.stages.items():
        for path, value in stages.changes_of(name, stage.changes).items():
            key = config_lib.key_of(path, config)  # names the nearest, where there is no such key
            if path not in present:
                raise UserError(
                    f"config.stages.{name}.changes: the config has no config."
                    f"{path.rpartition('.')[0]}, whose {key.name} would change."
                )
            key.check(path, value)
        if starts.setdefault(stage.start, name) != name:
            raise UserError(
                f"config.stages.{name} and {starts[stage.start]} begin at the same share of the "
                f"run, {stage.start:g}: make one of them, or let one begin later."
            )
    phases = stages.phases(config)
    for phase in phases if len(phases) > 1 else ():
        try:
            validate(phase.config)
        except UserError as error:
            raise UserError(f"From step {phase.start:,} on: {error}") from error


def _check_entries(section: str, keys: Keys, entries: ConfigDict) -> None:
    for name, spec in entries.items():
        if not isinstance(spec, ConfigDict):
            if section == "model":  # it has keys of its own
                continue
            raise UserError(
                f"config.{section}.{name}={spec!r} must be an entry: entry({section!r}, ...)."
            )
        for key in keys:
            if key.name == "kind" and spec.get("kind") is not None:
                key.check(f"{section}.{name}.kind", spec.kind)


def _check_texts(name: str, text: ConfigDict, config: ConfigDict) -> None:
    lengths, key = config.data.text_lengths, f"config.model.{name}"
    too_long = [n for n in lengths if n > text.context_length]
    if too_long:
        raise UserError(
            f"config.data.text_lengths: {too_long[0]} is above {key}.context_length="
            f"{text.context_length}."
        )
    if lengths and not ignores_padding(text):
        raise UserError(
            "config.data.text_lengths must be () for this text tower: it attends to its padding, "
            "so shorter texts would give other embeddings."
        )
    if lengths and text.tags:
        raise UserError(
            f"config.data.text_lengths must be (): the tags, {key}.tags, are at the end."
        )
    kinds = [objectives.kind_of(name, spec) for name, spec in config.objectives.items()]
    if text.tags and "caption" in kinds:
        raise UserError(f"config.objectives.caption would say the tags, too: set {key}.tags=0.")


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


def validate_on_mesh(config: ConfigDict, sizes: Mapping[str, int]) -> None:
    """Checks what depends on the mesh: `sizes` of its axes `data`, `fsdp`, `tensor`."""
    devices, parts = sizes["data"] * sizes["fsdp"], config.optim.microbatches
    batches = {"batch_size": (config.batch_size, devices * parts)}
    for length, many in buckets.buckets_of(config).kinds:
        size = buckets.trained(config, many)
        if size % (devices * parts) and size != config.batch_size:
            raise UserError(
                f"config.data.token_budget gives batches of {size} at {length} patches, which do "
                f"not divide over {devices} devices (data × fsdp) and {parts} microbatches: set "
                f"config.data.batch_multiple={devices * parts}."
            )
        if many % (devices * parts) and not size % (devices * parts):
            raise UserError(
                f"config.data.curation.keep={config.data.curation.keep:g} loads {many:,} examples "
                f"for a batch of {size:,}, which do not divide over {devices} devices (data × fsdp)"
                f" and {parts} microbatches: set it to 0.5 or 0.25, or change config.batch_size."
            )
    for name, spec in config.evals.items():
        if kind_of(name, spec) == "loss":  # the others fill their last batch up
            batches[f"evals.{name}.batch_size"] = (spec.batch_size, devices)
    for key, (batch, share) in batches.items():
        if batch % share:
            near = max(share, round(batch / share) * share)
            raise UserError(
                f"config.{key}={batch} does not divide over {devices} devices (data × fsdp)"
                + (f" and {parts} microbatches" if share > devices else "")
                + f"; the nearest valid value is {near}."
            )
    for name, part in sections(config.model).items():
        for key in ("heads", "time_heads"):  # of some kinds; a fusion's are its text tower's
            heads = part.get(key, 0)
            if heads % sizes["tensor"]:
                raise UserError(
                    f"config.mesh.tensor={sizes['tensor']} does not divide config.model.{name}."
                    f"{key}={heads}: heads are never split."
                )


def validate_on_platform(config: ConfigDict, platform: str) -> None:
    """Checks that the kernels asked for exist on "cpu", "gpu" or "tpu"."""
    for name, part in sections(config.model).items():
        kernel = part.get("attention", "auto")
        home = {"cudnn": "gpu", "splash": "tpu"}.get(kernel, platform)
        if home != platform:
            raise UserError(
                f"config.model.{name}.attention={kernel!r} runs on {home}s, and this is a "
                f"{platform}: set it to 'auto'."
            )


_REMEDIES = {  # by an output's last part
    "scale": "add config.model.{part} = entry('model', kind='scale')",
    "bias": "set config.model.{part}.bias, e.g. -10.0",
    "match": "add config.model.{part} = entry('model', kind='concat'), 'cross' or 'bottleneck'",
    "tokens": "add config.model.{part} = entry('model', kind='concat'), 'cross' or 'bottleneck'",
    "lm_head": "set config.model.{part}.mlm_head=True",
    "pixels": "set config.model.{part}.pixel_head=True",
    "embed": "a tower of depth 0 embeds nothing; this fusion is early",
}


def validate_outputs(
    built: Mapping[str, tuple[Any, float]],
    given: tuple[str, ...],
    conditioned: Mapping[str, str] | None = None,
) -> None:
    """Checks that the model can give what each objective requires, of views that there are;
    `conditioned` is as of `Graph`."""
    made = {PLAIN}.union(*(o.views.keys() | o.pairs.keys() for o, _ in built.values()))
    for name, (objective, _) in built.items():
        for view, outputs in objective.all_requires():
            if is_frozen(view):
                view, outputs = frozen_of(view)[1], ()
            if view not in made:
                raise UserError(
                    f"config.objectives.{name} reads the view that config.objectives.{view} makes: "
                    f"add config.objectives.{view} = entry('objectives')."
                )
            lacking = [output for output in outputs if output not in given]
            if lacking:
                part, _, last = lacking[0].partition("/")
                remedy = _REMEDIES.get(last, f"this model gives {', '.join(given)}")
                if last == "embed" and not any(output.startswith(f"{part}/") for output in given):
                    there = ", ".join(dict.fromkeys(output.partition("/")[0] for output in given))
                    remedy = "there is no part {part!r} in config.model; it has " + there
                if lacking[0] in (conditioned or {}):
                    remedy = "it depends on the example that it is compared with"
                remedy = remedy.format(part=part)
                raise UserError(
                    f"config.objectives.{name} needs the model output {lacking[0]!r}: {remedy}."
                )


def validate_teachers(
    config: ConfigDict,
    built: Mapping[str, tuple[Any, float]],
    teachers: Mapping[str, tuple[str, ...]],
) -> None:
    """Checks that every teacher is asked, and gives what it is asked for; `teachers`: the outputs
    of each by name. And that there is an average for the objectives that want one."""
    read = {view for objective, _ in built.values() for view, _ in objective.all_requires()}
    chosen_by = curation.asks(config, built)
    asked = {teacher_of(view) for view in (*read, *chosen_by)}
    for teacher in teachers:
        if teacher not in asked and not config.teachers[teacher].start:
            raise UserError(
                f"config.teachers.{teacher} is used by no objective: name it in the `teachers` of "
                "one, e.g. distill_similarity, or remove it."
            )
    for view, outputs in chosen_by.items():
        name = teacher_of(view) or ""
        _check_teacher("config.data.curation", "teacher", name, outputs, teachers)
    _check_average(config, built)
    for name, (objective, _) in built.items():
        for view, outputs in objective.all_requires():
            asks = teacher_of(view)
            if asks is not None:
                _check_teacher(f"config.objectives.{name}", "teachers", asks, outputs, teachers)


def _check_average(config: ConfigDict, built: Mapping[str, tuple[Any, float]]) -> None:
    heads = config.optim.ema and config.optim.ema_of == "heads"
    for name, (objective, _) in built.items():
        of_model = any(frozen_of(view)[0] == EMA for view, _ in objective.all_requires())
        if (of_model or objective.averaged) and not config.optim.ema:
            raise UserError(
                f"config.objectives.{name} needs averaged parameters: set config.optim.ema, e.g. "
                "0.995."
            )
        if of_model and heads:
            raise UserError(
                f"config.objectives.{name} needs an average of the model, and config.optim.ema_of="
                "'heads' keeps none: set it to 'all'"
                + (f", or config.objectives.{name}.teacher='self'." if objective.averaged else ".")
            )


def _check_teacher(
    key: str,
    named_in: str,
    teacher: str,
    outputs: tuple[str, ...],
    teachers: Mapping[str, tuple[str, ...]],
) -> None:
    """`key`: what reads the teacher, which is named in `key`.`named_in`."""
    if teacher not in teachers:
        known = ", ".join(teachers) or "none"
        raise UserError(
            f"{key}.{named_in}: there is no config.teachers.{teacher} (there is: {known}); add "
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
    for name, part in vocabularies(config.model).items():
        if part.vocab_size < vocab_size:
            raise UserError(
                f"config.model.{name}.vocab_size={part.vocab_size} is smaller than the vocabulary "
                f"of the tokenizer ({config.data.tokenizer}): set it to {vocab_size} or more."
            )


def validate_resume(
    old: ConfigDict, new: ConfigDict, workdir: Any, adjust: bool = False
) -> dict[str, tuple[Any, Any]]:
    """Checks that a run goes on as it began: only keys marked `resumable` may differ, and those of
    the same records, which `runs.same_data` compares; with `adjust` those marked ADJUSTABLE, too.

    Returns: of the adjusted keys, path → (old value, new value).
    """
    adjusted: dict[str, tuple[Any, Any]] = {}
    old, new = config_lib.complete(old), config_lib.complete(new)
    before, after = dict(leaves(old)), dict(leaves(new))
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) == after.get(path):
            continue
        key = config_lib.key_of(path, new if path in after else old)
        adjustable = ADJUSTABLE in key.marks
        if path == "total_steps" and len(stages.phases(new)) > 1:  # would move what was begun
            adjustable = False
        if adjustable and adjust:
            adjusted[path] = before.get(path), after.get(path)
        elif not (key.resumable or SAME_RECORDS in key.marks):
            raise UserError(
                f"{workdir} was started with config.{path}={before.get(path)!r}, and this command "
                f"has {after.get(path)!r}: use {before.get(path)!r} to resume, "
                + ("add --adjust to resume with the new value, " if adjustable else "")
                + "or choose another --workdir to start over."
            )
    return adjusted
