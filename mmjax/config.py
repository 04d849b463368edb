"""The config of a run: the sections and named entries whose keys the subsystems declare.

A config file is Python: `get_config(arg) -> ConfigDict`, which starts from `default()`, fills in
`model` from the zoo and adds named entries (sources, objectives, evaluators) with `entry(...)`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from ml_collections import ConfigDict

from mmjax import evaluation, models, objectives, schema
from mmjax.data import modalities, sources
from mmjax.errors import UserError
from mmjax.evaluation.spec import Evaluation
from mmjax.interop.start import InitFrom
from mmjax.models import parts
from mmjax.parallel.mesh import make_mesh
from mmjax.runs import stages, upgrades, workdir
from mmjax.runs.checkpoint import Checkpoint
from mmjax.runs.metrics import Log
from mmjax.runs.profile import Profile
from mmjax.runs.stages import Stage
from mmjax.schema import ADJUSTABLE, RESUMABLE, Key, Keys, keys_of, kind_of
from mmjax.teachers.teacher import Keys as TeacherKeys
from mmjax.values import COUNT, NATURAL, nearest


@dataclasses.dataclass(frozen=True)
class Run:
    """The keys that are no subsystem's.

    Attributes:
      seed: Seed of initialisation, data order and augmentation.
      total_steps: Steps of the run; the schedule ends there.
      batch_size: Global batch: pairs that a step trains on, over all devices.
      deterministic: The same bits in every run on GPUs, too, where that costs time (CPUs and TPUs
        always give them).
    """

    seed: Annotated[int, NATURAL] = 0
    total_steps: Annotated[int, ADJUSTABLE, COUNT] = 10_000
    batch_size: Annotated[int, COUNT] = 256
    deterministic: Annotated[bool, RESUMABLE] = False


SECTIONS: dict[str, Keys] = {
    "": keys_of(Run),
    "model": parts.SECTION,
    "init_from": keys_of(InitFrom, RESUMABLE),
    "mesh": keys_of(make_mesh, RESUMABLE, skip=("devices",)),
    **workdir.SECTIONS,
    "checkpoint": keys_of(Checkpoint, RESUMABLE),
    "profile": keys_of(Profile, RESUMABLE),
    "log": keys_of(Log, RESUMABLE),
}
# Sections of entries that the config names: the keys of all, and those of each kind.
ENTRIES: dict[str, Keys] = {
    "model": parts.COMMON,
    "objectives": objectives.COMMON,
    "teachers": keys_of(TeacherKeys),
    "data.train": sources.KEYS,
    "evals": keys_of(Evaluation, RESUMABLE),
    "stages": keys_of(Stage),
}


def kinds(section: str) -> Mapping[str, Keys]:
    """The keys of every kind of entries in a section; of some sections all are of one kind."""
    if section == "model":
        return {name: kind.keys for name, kind in parts.KINDS.items()}
    if section == "evals":
        return {name: kind.keys for name, kind in evaluation.KINDS.items()}
    if section == "objectives":
        return {kind: objectives.keys_at(kind) for kind in objectives.REGISTRY}
    return {}


def keys_at(section: str, config: ConfigDict) -> Keys | None:
    """The keys of a section such as "optim", or of an entry such as "evals.held", which depend on
    its kind. None: there is no such section."""
    parent, _, name = section.rpartition(".")
    if parent not in ENTRIES:
        return SECTIONS.get(section)
    return kinds(parent).get(kind_of(name, config[parent].get(name, {})), ENTRIES[parent])


def key_of(path: str, config: ConfigDict) -> Key:
    """The key at a path such as "optim.lr"; UserError names the nearest if there is none."""
    section, _, name = path.rpartition(".")
    found = keys_at(section, config)
    if found and (section.rpartition(".")[0] in ENTRIES or any(key.name == name for key in found)):
        return schema.find(found, path)
    known = [f"{s}.{key.name}".lstrip(".") for s, keys in SECTIONS.items() for key in keys]
    near = nearest(path, known)
    raise UserError(f"config.{path}: there is no such key; the nearest is config.{near}.")


def set_key(config: ConfigDict, path: str, text: Any) -> None:
    """Sets the key at `path` to a value, or to what a text of the command line stands for.

    UserError names it.
    """
    section, _, name = path.rpartition(".")
    parent, _, entry = section.rpartition(".")
    if parent in ENTRIES and entry not in config_at(config, parent):
        raise UserError(
            f"config.{path}={text}: the config has no config.{section}; add the entry to its file "
            "(see mmjax.config.entry), or set one of its keys."
        )
    value = key_of(path, config).parse(path, text)
    with config.unlocked():
        config_at(config, section)[name] = value


def default() -> ConfigDict:
    """A config with every key at its default; named entries (sources, …) are still empty."""
    config = ConfigDict()
    for section, keys in SECTIONS.items():
        config_at(config, section).update(schema.entry(keys))
    for section in ENTRIES:
        config_at(config, section)
    return config


def entry(section: str, /, **values: Any) -> ConfigDict:
    """A named entry of a section ("model", "data.train", "objectives", "teachers", "evals"):
    `values` over the defaults. Where the kind is not among them it is the entry's name.

    >>> from mmjax.config import default, entry
    >>> config = default()
    >>> config.data.train.mine = entry("data.train", path="pairs.csv")
    >>> config.data.train.mine.weight
    1.0
    """
    keys = kinds(section).get(values.get("kind", ""), ENTRIES[section])
    return schema.entry(keys, values)


def complete(config: ConfigDict) -> ConfigDict:
    """A config in which no key is missing: those that it lacks have their defaults."""
    result = default()
    result.update(config.to_dict())
    result.model = parts.complete(result.model)
    for section in ENTRIES.keys() - {"model"}:
        node = config_at(result, section)
        for name in [name for name, spec in node.items() if isinstance(spec, ConfigDict)]:
            node[name] = schema.entry(keys_at(f"{section}.{name}", result) or (), node[name])
    return result


def describe() -> str:
    """All keys, two lines each: name and default, meaning and range; first how values read."""
    return "\n".join((schema.CONVENTION, *_descriptions()))


def resolved(config: ConfigDict) -> str:
    """All keys of a config with their values, a line each; * marks those that are no default."""
    lines = []
    for path, value in schema.leaves(config):
        default = key_of(path, config).default
        lines.append(f"{' ' if value == default else '*'} config.{path} = {value!r}")
    return "\n".join(lines)


def to_json(config: ConfigDict) -> str:
    """The config as indented JSON; `from_json` reads it back, tuples as tuples."""
    return upgrades.dump(config)


def from_json(text: str) -> ConfigDict:
    """A config written by `to_json`, of this version or an earlier one. Keys that are newer than
    the file have their defaults."""
    return complete(upgrades.load(text))


def config_at(config: ConfigDict, section: str) -> ConfigDict:
    """The section of a config, made if there is none."""
    for name in filter(None, section.split(".")):
        if name not in config:
            config[name] = ConfigDict()
        config = config[name]
    return config


def _descriptions() -> Iterator[str]:
    for section, keys in SECTIONS.items():
        yield from (key.describe(f"{section}.{key.name}".lstrip(".")) for key in keys)
    for section, common in ENTRIES.items():
        yield from (key.describe(f"{section}.*.{key.name}") for key in common)
        for kind, keys in kinds(section).items():
            own = [key for key in keys if key not in common]
            yield from [f"  Of the kind {kind}:"] if own else []
            yield from (key.describe(f"{section}.*.{key.name}") for key in own)


def variant(config: ConfigDict, arg: str | None) -> ConfigDict:
    """What FILE:ARG stands for: the config itself without an ARG, its `smoke` form for "smoke".

    UserError: another ARG.
    """
    if arg not in (None, "smoke"):
        raise UserError(
            f"the config takes no argument {arg!r}, only 'smoke': a few steps on generated data."
        )
    return smoke(config) if arg else config


def smoke(config: ConfigDict) -> ConfigDict:
    """The same run made small: a few steps of tiny towers on generated pairs, on any machine.

    Sources keep their names, so that a path given on the command line is tried in their place.

    Objectives, optimizer, schedule and evaluators stay what they are, so that `configs/x.py:smoke`
    tries all of a recipe but its size.
    """
    sizes = {path: value for path, value in schema.leaves(config.model)}
    config.model.update(embed_dim=32, name=f"{config.model.name} (smoke)")
    for name, spec in parts.sections(config.model).items():
        small = _small_keys(name, spec)
        spec.update({k: new(spec[k]) if callable(new) else new for k, new in small.items()})
        if spec.get("boxes"):
            spec.context_length = 48  # a box has some 20 tokens of a small vocabulary
    for name, objective in config.objectives.items():
        with objective.unlocked():
            objective.update(objectives.smoke_of(kind_of(name, objective)))
    built = objectives.build(config.objectives, config.model)
    if any(objective.inputs for objective, _ in built.values()):
        config.data.crops.update(count=2, size=16)
    config.update(total_steps=6, batch_size=16)
    config.optim.warmup_steps = min(config.optim.warmup_steps, 2)
    config.optim.microbatches = min(config.optim.microbatches, 2)
    config.mesh.update(data=-1, fsdp=1, tensor=1)
    model = config.model.copy_and_resolve_references()
    model.dtype = "float32"  # "auto" would start the devices, before the processes of a job meet
    reads = {modalities.medium(kind) for kind, _ in models.inputs(model).values()}
    of_media = schema.find(sources.KEYS, "media")
    media = next((m for m in of_media.choices if m in reads - {of_media.default}), of_media.default)
    tags, boxes = ("generated" if kind in reads else "" for kind in ("tags", "region_texts"))
    given = dict(config.data.train.items()) or {"generated": entry("data.train", path="")}
    for name, spec in given.items():
        config.data.train[name] = entry(
            "data.train", path="generated:64", tags=tags, boxes=boxes, weight=spec.weight,
            without=spec.without, media=spec.media if spec.media in reads else media,
        )  # fmt: skip
    config.data.workers = min(config.data.workers, 1)
    config.data.pack = min(config.data.pack, 2)
    config.data.tokenizer = "captions:600"
    config.init_from.source = ""  # towers of another size
    config.data.text_lengths = (8, 16) if config.data.text_lengths else ()
    if config.data.image_lengths:
        config.data.update(image_lengths=(8, 16), length_shares=(), batch_multiple=16)
    config.data.token_budget = min(config.data.token_budget, 16 * 16)
    for name, teacher in config.teachers.items():
        start = teacher.start
        source = "random:tiny" if "image" in reads else "random:tiny-bert"
        if name == config.data.curation.teacher:  # its losses of pairs want a bias
            source = "random:tiny-siglip"
        config.teachers[name] = entry("teachers", source=source, start=start)
    for name, spec in config.evals.items():
        kind = kind_of(name, spec)
        small = {"classes": "imagenet", "templates": "plain", "train": "generated:32"}
        config.evals[name] = entry(
            "evals", kind=kind, every=3, path="generated:24", batch_size=16,
            media=spec.media if spec.media in reads else media, boxes=boxes,
            **{key.name: small[key.name] for key in kinds("evals")[kind] if key.name in small},
        )  # fmt: skip
    for number, (_, name) in enumerate(sorted((s.start, n) for n, s in config.stages.items())):
        stage = config.stages[name]
        stage.start = (number + 1) / (len(config.stages) + 1)  # each has steps
        stage.changes = tuple(_small(config, sizes, stages.changes_of(name, stage.changes)))
    config.checkpoint.every = 3
    config.log.every = 2
    return config


def _small_keys(name: str, spec: ConfigDict) -> Mapping[str, Any]:
    """What a smoke run sets in a part of the model: values, or functions of the run's own."""
    return getattr(parts.kind_at(name, spec).module, "SMOKE", {})


def _small(
    config: ConfigDict, sizes: Mapping[str, Any], changes: Mapping[str, Any]
) -> Iterator[str]:
    """The changes of a stage in a smoke run: a size of images grows by the same factor, what else
    the smoke run sets itself stays, and all others are made."""
    own = ("batch_size", "optim.warmup_steps", "data.image_lengths", "data.token_budget",
           "data.text_lengths")  # fmt: skip
    for path, value in changes.items():
        part, _, key = path.removeprefix("model.").partition(".")
        if path.startswith("model.") and key in _small_keys(part, config.model[part]):
            if key == "size":
                tower = config.model[part]
                patches = round(tower.size / tower.patch_size * value / sizes[f"{part}.size"])
                yield f"{path}={patches * tower.patch_size}"
        elif path not in own:
            yield f"{path}={value!r}"
