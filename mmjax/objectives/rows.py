"""What a row of the batch has for an objective: checks before the first step."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from mmjax.data import mixtures, modalities
from mmjax.errors import UserError
from mmjax.models import Graph
from mmjax.models.parts import vocabularies
from mmjax.objectives.registry import Objective, is_frozen

Built = Mapping[str, tuple[Objective, float]]


def check(config: ConfigDict, model: Graph, built: Built) -> None:
    """UserError: an objective reads a bag of captions as if it were one, or a part of the model for
    which some source of the mixture has nothing; or it has no examples, or a source no use."""
    _check_bags(config, built)
    _check_mixture(config, model, built)


def _check_bags(config: ConfigDict, built: Built) -> None:
    """Checks that no objective reads a bag of captions as if it were one."""
    for part, spec in vocabularies(config.model).items():
        for name, (objective, _) in built.items():
            read = {output for outputs in objective.requires.values() for output in outputs}
            reads_it = any(output.startswith(f"{part}/") for output in read)
            if spec.get("bag") and reads_it and part not in objective.bags:
                raise UserError(
                    f"config.objectives.{name} takes one caption an example, and config.model."
                    f"{part}.bag={spec.bag}: set it to 0, or use the kind mil_nce."
                )


def _check_mixture(config: ConfigDict, model: Graph, built: Built) -> None:
    """Checks that each objective has examples, and each source an objective, where sources of a
    mixture have nothing for some parts of the model."""
    inputs, sources = model.inputs(), sorted(config.data.train)
    read = modalities.build(inputs)
    for name in sources:
        for part in config.data.train[name].without:
            if part not in inputs or all(part in config.data.train[s].without for s in sources):
                raise UserError(
                    f"config.data.train.{name}.without={part!r}: the model reads "
                    f"{', '.join(inputs)}, each of at least one source: take {part!r} out."
                )
    without = mixtures.lacking(inputs, config.data.train)
    if not without:
        return
    part, lacks = next((part, min(names)) for part, names in without.items())
    if config.teachers or config.data.pack:
        key = "teachers" if config.teachers else "data.pack"
        raise UserError(
            f"config.{key} wants sources that all show the same, and config.data.train.{lacks} has "
            f"nothing for config.model.{part}: remove one of the two."
        )
    columns = {name: part for part, of in read.items() for name in of.columns}
    used = set()
    for name, (objective, _) in built.items():
        outputs = {o for view, names in objective.requires.items() if not is_frozen(view)
                   for o in names}  # fmt: skip
        reads = {columns[column] for column in model.sources(outputs, columns)}
        for part in sorted(reads.intersection(without).difference(objective.absent)):
            raise UserError(
                f"config.objectives.{name} reads {part!r} of every example, and config.data.train."
                f"{min(without[part])} has nothing for it: remove the source, or use clip, "
                "infonce without a queue, siglip or mil_nce, which leave such examples out."
            )
        having = [s for s in sources if not any(s in without.get(p, ()) for p in reads)]
        if not having:
            raise UserError(
                f"config.objectives.{name} needs {' and '.join(sorted(reads))} of one example, and "
                "no source of config.data.train has all of these: add one, or remove the objective."
            )
        used.update(having)
    for name in sources:
        if name not in used:
            raise UserError(
                f"config.data.train.{name} is used by no objective: it has nothing for "
                f"{', '.join(p for p in without if name in without[p])}; add an objective of "
                "what it has, or remove it."
            )
