"""A run's parts, from its config: model, objectives, teachers, optimizer, and the shapes of the
train state and the batch. Nothing is read or computed; a mesh of described devices will do."""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from mmjax import config_check, models, objectives
from mmjax.core import curation, optim
from mmjax.core.flops import scoring_flops, step_flops
from mmjax.core.state import HEADS, NOTHING_DECLARED, Declared, TrainState, abstract_state
from mmjax.core.step import Objectives, declare, make_train_step
from mmjax.data import buckets, mixtures, modalities, packing, train_columns
from mmjax.data.modalities import LoadTokenizer, Modality
from mmjax.data.vocabulary import Vocabulary
from mmjax.errors import UserError
from mmjax.models import Graph
from mmjax.models.flops import plain_model
from mmjax.objectives import rows
from mmjax.objectives.registry import teacher_of
from mmjax.parallel import mesh as mesh_lib
from mmjax.params import Role, map_roles
from mmjax.runs.stages import Phase
from mmjax.teachers.teacher import Teacher, open_teachers


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the train step is made of.

    Attributes:
      objectives: name → (objective, weight).
      lr_multipliers: factors on the learning rate, like the parameters.
      declared: what the objectives keep beside the model.
      batches: shapes of the batch that is loaded in each of its buckets, the longest first, at the
        longest text, as it lies on the mesh. Most runs have one.
      state: shapes of the train state as it lies on the mesh, teachers included.
      schedule: the steps over which the learning rate is scheduled, first and one behind the last.
    """

    config: ConfigDict
    model: Graph
    objectives: Objectives
    teachers: tuple[Teacher, ...]
    optimizer: optax.GradientTransformation
    lr_multipliers: Any
    declared: Declared
    batches: tuple[dict[str, jax.ShapeDtypeStruct], ...]
    state: TrainState
    schedule: tuple[int, int]

    @property
    def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of the longest batch."""
        return self.batches[0]

    def kept(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """Shapes of what is trained on of a batch that is loaded."""
        return curation.kept(self.config, self.objectives, batch)

    @property
    def batch_size(self) -> int:
        """Examples of the longest batch that are trained on."""
        return self.trained(self.batch)

    def trained(self, batch: Mapping[str, Any]) -> int:
        """Examples that are trained on of a batch that is loaded (or its shapes)."""
        return buckets.trained(self.config, batch["group"].shape[0])

    def with_vocabulary(self, vocabulary: Vocabulary) -> "Parts":
        """The parts once there is a tokenizer: some objectives want to know its tokens."""
        config = self.config
        built = objectives.build(config.objectives, config.model, vocabulary)
        return dataclasses.replace(self, objectives=built)

    def flops(self, batch: Mapping[str, Any]) -> int:
        """Model FLOPs of a train step for which `batch` (or its shapes) is loaded, over all
        devices."""
        model, parts = plain_model(self.config.model), (self.objectives, self.teachers, self.state)
        trained = step_flops(model, *parts, self.kept(batch))
        return trained + scoring_flops(self.config, model, *parts, batch)

    def step(self) -> Any:
        """The train step, jitted; it donates the state's arrays."""
        step = make_train_step(
            self.model, self.objectives, self.optimizer, self.lr_multipliers, self.config,
            self.teachers, self.schedule,
        )  # fmt: skip
        return jax.jit(step, donate_argnums=0)

    def compiled_step(self, state: TrainState) -> Any:
        """The train step, compiled for every bucket where there are several, so that no step has to
        wait for a length that was not met before; `state` has the shapes and shardings."""
        step = self.step()
        for batch in self.batches if len(self.batches) > 1 else ():
            step.lower(state, batch).compile()
        return step


def assemble(config: ConfigDict, mesh: jax.sharding.Mesh, phase: Phase | None = None) -> Parts:
    """Puts the parts together, under `jax.set_mesh(mesh)`.

    Args:
      config: of a run without stages, or of a phase.
      mesh: that of the run.
      phase: the phase of a run that has several.

    Raises:
      UserError: parts that do not exist, do not fit each other or this platform.
    """
    model = models.from_config(config.model)
    config_check.validate_on_platform(config, mesh_lib.platform())
    built = objectives.build(config.objectives, config.model)
    teachers = open_teachers(config)
    given = {teacher.name: teacher.given() for teacher in teachers}
    config_check.validate_outputs(built, model.outputs(), model.conditioned())
    curation.check(config, model, built)
    config_check.validate_teachers(config, built, given)
    packing.check(config, built)
    rows.check(config, model, built)
    asked: dict[str, set[str]] = {}
    reads = [item for objective, _ in built.values() for item in objective.all_requires()]
    for view, outputs in (*reads, *curation.asks(config, built).items()):
        if teacher_of(view) is not None:
            asked.setdefault(view, set()).update(outputs)
    teachers = tuple(teacher.for_objectives(asked, config) for teacher in teachers)
    batches = abstract_batches(config, teachers)
    first, *others = (curation.kept(config, built, batch) for batch in batches)
    frozen = {teacher.name: teacher.abstract(mesh) for teacher in teachers}
    declared = NOTHING_DECLARED
    if teachers or any(objective.params or objective.state for objective, _ in built.values()):
        declared = declare(model, built, first, teachers, frozen)
        for other in others:
            _check_declared(declared, declare(model, built, other, teachers, frozen))
    init = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
    heads = jax.eval_shape(lambda: declared.params(jax.random.key(0)))
    multipliers = optim.lr_multipliers(config.optim, init | heads, model.layers_above())
    apart = None
    if phase is not None:  # what begins late has moments of its own, not as old as the run

        def label(role: Role, leaf: Any) -> str:
            name = owner(role.path, built, phase.late)
            return f"objective {name}" if name else "trained"

        apart = map_roles(label, init | heads)
    optimizer = optim.optimizer(config.optim, multipliers, apart)
    state = abstract_state(
        model, optimizer, ema=config.optim.ema > 0, ema_of=config.optim.ema_of, mesh=mesh,
        declared=declared,
    )  # fmt: skip
    return Parts(
        config, model, built, teachers, optimizer, multipliers, declared, batches,
        dataclasses.replace(state, teachers=frozen),
        (0, config.total_steps) if phase is None else phase.schedule,
    )  # fmt: skip


def owner(path: str, built: Objectives, names: Collection[str]) -> str:
    """Which of the objectives `names` trains a parameter alone; "" if none does."""
    for name in sorted({*names} & {*built}):
        if any(re.match(own, path) for own in (f"{HEADS}/{name}/", *built[name][0].owns)):
            return name
    return ""


def abstract_batches(
    config: ConfigDict, teachers: tuple[Teacher, ...] = ()
) -> tuple[dict[str, jax.ShapeDtypeStruct], ...]:
    """Shapes of the batches that the loader makes, the longest first, at the longest text, on the
    current mesh."""
    sharding, read = mesh_lib.batch_sharding(), readers(config, teachers)
    return tuple(
        {
            name: jax.ShapeDtypeStruct((size, *shape), dtype, sharding=sharding)
            for name, (shape, dtype) in train_columns([m.at(length) for m in read]).items()
        }
        for length, size in buckets.buckets_of(config).kinds
    )


def _check_declared(longest: Declared, other: Declared) -> None:
    """UserError: what an objective keeps from step to step depends on the batch's shape, and a run
    has several."""
    kept = [jax.eval_shape(declared.memory) for declared in (longest, other)]
    for name in kept[0]:
        if kept[0][name] != kept[1][name]:
            raise UserError(
                f"config.objectives.{name} keeps arrays of the batch's shape from step to step, "
                "and config.data.image_lengths gives batches of several: set "
                "config.data.token_budget=0."
            )


def readers(
    config: ConfigDict, teachers: Sequence[Teacher], tokenizer: LoadTokenizer | None = None
) -> list[Modality]:
    """What the model, its teachers and its objectives read of a record; `tokenizer` loads the
    run's, and is asked to only if one of them reads texts by it. None: for shapes alone."""
    inputs = models.inputs(config.model)
    of_model = modalities.build(inputs, data=config.data, tokenizer=tokenizer)
    of_teachers = [m for teacher in teachers for m in teacher.readers(config, tokenizer)]
    built = objectives.build(config.objectives, config.model)
    asked = {name: of for o, _ in built.values() for name, of in o.inputs.items()}
    of_objectives = modalities.build(asked, data=config.data, tokenizer=tokenizer)
    mixed = mixtures.in_mixture(of_model, config.data.train, inputs)
    return [*mixed, *of_teachers, *of_objectives.values()]
