"""The folder of a run: its config, its tokenizer, and reading a run back for inference.

WORKDIR/config.json, tokenizer/, checkpoints/, metrics.jsonl, tensorboard/.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from mmjax import data, models
from mmjax.core.curation import Curation
from mmjax.core.optim import Optim, averages_model
from mmjax.data.classes import of_tsv
from mmjax.data.keys import KEYS as DATA
from mmjax.data.lengths import Lengths, keep_lengths, read_lengths
from mmjax.errors import UserError
from mmjax.models import Graph, parts
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import rules
from mmjax.runs.checkpoint import FOLDER, checkpoint_steps, restore_params
from mmjax.runs.local_path import workdir_path
from mmjax.runs.lock import locked
from mmjax.runs.stages import phase_of
from mmjax.runs.upgrades import dump, load
from mmjax.schema import Keys, entry, keys_of

# Sections that have their defaults where a run is older than their keys, or than they.
SECTIONS: dict[str, Keys] = {
    "optim": keys_of(Optim),
    "data": DATA,
    "data.augment": keys_of(data.Augment),
    "data.crops": keys_of(data.modalities.Crops),
    "data.curation": keys_of(Curation),
}
CLASSES = "classes.tsv"  # the classes of a run that learns some: of, label, folder, class
TRAINED = "data.train."  # how `of` begins of what is trained on
COMMAND = "command.txt"  # that the run was last started or resumed with, for model cards


def open_workdir(
    workdir: epath.Path,
    config: ConfigDict,
    cleanup: contextlib.ExitStack,
    check_resume: Callable[[ConfigDict], None],
    command: str = "",
) -> None:
    """Makes and locks the workdir and writes config.json, or checks the run that is there.

    Args:
      workdir: the folder.
      config: of the run.
      cleanup: unlocks the workdir in the end.
      check_resume: raises UserError if the run may not go on from that of an earlier config. Before
        the first checkpoint nothing depends on the config, so it may still be mended.
      command: is kept in command.txt, for the model card.

    Raises:
      UserError: it cannot be reached or written, another job is at it, or `check_resume`.
    """
    path = workdir / "config.json"
    try:
        begun = bool(checkpoint_steps(workdir))
        if begun:
            check_resume(read_config(workdir))
        if jax.process_index() == 0:
            workdir.mkdir(parents=True, exist_ok=True)
            cleanup.enter_context(locked(workdir))
            if not begun:
                for stale in ("tokenizer", "tokenizer.tmp", "lengths"):  # of the old config's data
                    (workdir / stale).rmtree(missing_ok=True)
            temporary = workdir / "config.json.tmp"
            temporary.write_text(dump(config))
            temporary.replace(path)
            if command:
                (workdir / COMMAND).write_text(command + "\n")
    except UserError:
        raise
    except Exception as error:  # the libraries of buckets raise their own
        problem = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"--workdir={workdir} cannot be written ({problem}): name a folder that can."
        ) from error
    multihost_utils.sync_global_devices("workdir")


def read_config(workdir: epath.Path) -> ConfigDict:
    """The config of the run in `workdir`; UserError if there is none.

    The keys of `model`, `data` and `optim` that are newer than the run have their defaults.
    """
    path = epath.Path(workdir) / "config.json"
    try:
        config = load(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{workdir} is not a workdir of a run: {path} is missing.") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}): restore it from a copy.") from error
    config.model = parts.complete(config.model)
    for section, keys in SECTIONS.items():
        *above, name = section.split(".")
        node = functools.reduce(getattr, above, config)
        node[name] = entry(keys, node.get(name, {}))
    return config


def config_at(workdir: epath.Path, step: int | None = None) -> ConfigDict:
    """The config of the phase that a checkpoint of a run is of; None: of its newest."""
    config = read_config(workdir)
    return phase_of(config, step or max(checkpoint_steps(workdir), default=0)).config


def workdir_tokenizer(
    workdir: epath.Path,
    config: ConfigDict,
    sources: Any,
    of_weights: Callable[[], data.Tokenizer] | None = None,
) -> data.Tokenizer:
    """The run's tokenizer in WORKDIR/tokenizer: read, or made (trained on the captions) once.

    `of_weights` loads the one of `config.init_from`.
    """
    folder = workdir / "tokenizer"
    if not folder.exists() and jax.process_index() == 0:
        temporary = workdir / "tokenizer.tmp"
        make_tokenizer(config, sources, of_weights).save(temporary)
        temporary.rename(folder)
    multihost_utils.sync_global_devices("tokenizer")
    return data.load_tokenizer(folder)


def workdir_classes(workdir: str | epath.PathLike) -> tuple[str, ...]:
    """The names of the classes that a run learns, in order of label; () if it learns none, or from
    labels without names."""
    file = workdir_path(workdir) / CLASSES
    found = of_tsv(file.read_text()) if file.exists() else {}
    trained = (rows for of, rows in found.items() if of.startswith(TRAINED))
    return tuple(one.folder for one in next(trained, []))


def at_step(path: str | Path) -> tuple[str, int | None]:
    """The workdir and the step of WORKDIR/checkpoints/STEP; of another path itself, and None."""
    named = Path(path)
    is_step = named.name.isdigit() and named.parent.name == FOLDER
    return (str(named.parent.parent), int(named.name)) if is_step else (str(path), None)


def saved_tokenizer(workdir: epath.Path, config: ConfigDict) -> Callable[[], data.Tokenizer] | None:
    """Loads WORKDIR/tokenizer; None for a model without texts, which needs none."""
    reads_texts = parts.vocabularies(config.model)
    return functools.partial(data.load_tokenizer, workdir / "tokenizer") if reads_texts else None


def workdir_lengths(
    workdir: epath.Path, config: ConfigDict, sources: Sequence[data.Source], tokenizer: Any
) -> Sequence[Lengths]:
    """Token lengths of the run's texts in WORKDIR/lengths, where several hosts trim their batches.

    They are counted once. () if nothing is trimmed, one host sees all, or a source cannot read its
    captions without pictures or a request each: then texts keep their full length.
    """
    several = len(mesh_lib.local_rows(config.batch_size)) < config.batch_size
    quick = all(getattr(source, "captions_alone", False) for source in sources)
    if not (config.data.text_lengths and several and quick and "://" not in str(workdir)):
        return ()
    folder = Path(workdir) / "lengths"
    most = max(part.context_length for part in parts.vocabularies(config.model).values())
    if jax.process_index() == 0:
        for source in sources:
            keep_lengths(folder, source, tokenizer, most)
    multihost_utils.sync_global_devices("lengths")
    return read_lengths(folder, sources, most)


def make_tokenizer(
    config: ConfigDict, sources: Any, of_weights: Callable[[], data.Tokenizer] | None
) -> data.Tokenizer:
    """The tokenizer that `config.data.tokenizer` names, or one trained on the captions."""
    kind, _, size = config.data.tokenizer.partition(":")
    if kind == "captions" and size.isdigit():
        captions = (c for source in sources for i in range(len(source)) for c in source.captions(i))
        return data.train_tokenizer(captions, int(size))
    if kind != "init_from":
        return data.load_tokenizer(config.data.tokenizer)
    if of_weights is None:
        raise UserError(
            f"config.data.tokenizer=init_from, but config.init_from.source="
            f"{config.init_from.source!r} has no tokenizer: name weights that have one "
            "(--config=finetune_clip:WEIGHTS or --config.init_from.source=WEIGHTS), or a tokenizer."
        )
    return of_weights()


def restore_for_inference(
    workdir: str,
) -> tuple[ConfigDict, Graph, Any, data.Tokenizer | None]:
    """(config, model, parameters, tokenizer) of a run, or of WORKDIR/checkpoints/STEP; the averaged
    parameters if it keeps them.

    A model without texts has no tokenizer. The parameters lie on the current mesh (`jax.set_mesh`),
    or on the first device without one.
    """
    of_run, step = at_step(workdir)
    folder = workdir_path(of_run)
    config = config_at(folder, step)
    shapes = inference_shapes(config.model)
    params = restore_params(folder, shapes, ema=averages_model(config.optim), step=step)
    load = saved_tokenizer(folder, config)
    return config, models.from_config(config.model), params, load and load()


def inference_shapes(model_config: ConfigDict) -> Any:
    """Shapes, dtypes and shardings of the parameters of `config.model` on the current mesh, or on
    the first device without one."""
    model = models.from_config(model_config)
    shapes = jax.eval_shape(lambda key: models.init(model, key), jax.random.key(0))
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        rules.param_shardings(shapes, mesh),
    )
