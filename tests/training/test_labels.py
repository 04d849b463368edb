"""What a run that learns classes is told of its labels before its first step."""

import contextlib

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from mmjax import config as config_lib
from mmjax import data, models
from mmjax.errors import UserError
from mmjax.parallel import mesh as mesh_lib
from mmjax.runs.workdir import workdir_classes
from mmjax.training import labels
from mmjax.training.assemble import assemble
from mmjax.training.prepare import prepare


def config_of(classes=3, objective="classification", **sources):
    """An image model alone, whose features are logits of so many classes."""
    config = config_lib.default()
    config.model = models.zoo.config("tiny")
    for other in ("text", "logit"):
        del config.model[other]
    config.model.embed_dim = classes
    config.model.image.update(size=16, patch_size=8, width=32, depth=1, heads=2, mlp_dim=64,
                              head="linear_bias", unroll=False)  # fmt: skip
    config.model.image.pixel_head = objective == "masked_image"
    config.objectives[objective] = config_lib.entry("objectives", kind=objective)
    config.update(total_steps=1, batch_size=8)
    config.log.tensorboard = False
    for name, path in sources.items():
        label = "label" if str(path).endswith(".csv") else ""
        config.data.train[name] = config_lib.entry("data.train", path=str(path), label=label)
    return config


def folders(folder, names):
    for name in names:
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (20, 24), "red").save(folder / name / "a.png")
    return folder


def table(folder, values):
    folder.mkdir()
    for number in range(len(values)):
        Image.new("RGB", (20, 24), "red").save(folder / f"{number}.png")
    rows = "".join(f"{number}.png,a square,{value}\n" for number, value in enumerate(values))
    (folder / "set.csv").write_text("image,caption,label\n" + rows)
    return folder / "set.csv"


@contextlib.contextmanager
def prepared(config, workdir):
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh), contextlib.ExitStack() as cleanup:
        yield prepare(config, epath.Path(workdir), cleanup, "")


def test_classes_are_said_and_written_into_the_workdir(tmp_path, capsys):
    names = ["bee", "cat", "dog", "emu", "fox"]
    config = config_of(6, pets=folders(tmp_path / "pets", names))
    with prepared(config, tmp_path / "run") as run:
        assert set(next(run.batches)["label"].tolist()) <= set(range(5))
    said = capsys.readouterr().out
    assert (
        "config.data.train.pets: 5 classes: bee → 0, cat → 1, dog → 2, …, fox → 4, of 6 that the "
        "model tells apart" in said
    )
    assert (tmp_path / "run" / "classes.tsv").read_text().splitlines() == [
        "of\tlabel\tfolder\tclass",
        *(f"data.train.pets\t{label}\t{name}\t{name}" for label, name in enumerate(names)),
    ]
    assert workdir_classes(tmp_path / "run") == tuple(names)
    assert workdir_classes(tmp_path) == ()


def checked(config):
    """What `labels.check` gives, or raises, for a config's own sources and model."""
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        count = labels.count_classes(assemble(config, mesh))
    opened = data.open_sources(config.data.train)
    return labels.check(dict(zip(sorted(config.data.train), opened, strict=True)), count)


def test_more_folders_than_the_model_has_classes(tmp_path):
    config = config_of(2, pets=folders(tmp_path / "pets", ["cat", "dog", "emu"]))
    message = r"train\.pets has 3 classes \('cat', 'dog', 'emu'\), and the model tells 2 apart"
    with pytest.raises(UserError, match=message):
        checked(config)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (["cat", "emu"], "1 is 'dog' in one and 'emu' in the other"),
        (["cat", "dog", "emu"], "2 is None in one and 'emu' in the other"),
    ],
)
def test_two_sources_of_other_classes_are_refused(tmp_path, second, message):
    one, two = (folders(tmp_path / n, c) for n, c in (("a", ["cat", "dog"]), ("b", second)))
    with pytest.raises(UserError, match=message + r".*would mean two things"):
        checked(config_of(one=one, two=two))
    (two / "emu").rename(two / "emu.old")
    rows, lines = checked(config_of(one=one, two=folders(tmp_path / "c", ["cat", "dog"])))
    assert len(rows) == len(lines) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2, 3], r"2\.png has the label 3, .* 0 … 2; the labels seem to count from 1"),
        ([0, 1, 3], r"2\.png has the label 3, and the model tells 3 classes apart, 0 … 2\."),
        ([0, -2, 1], r"1\.png has the label -2"),
        ([-1, -1], r"no source of config\.data\.train has any"),
    ],
)
def test_numbers_that_are_no_classes_are_refused(tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        checked(config_of(numbers=table(tmp_path / "set", values)))


def test_numbers_beside_names_are_said(tmp_path):
    _, lines = checked(
        config_of(a=folders(tmp_path / "a", ["cat", "dog"]), b=table(tmp_path / "b", [0, -1]))
    )
    assert lines[1] == (
        "config.data.train.b: its labels have no names and are taken as those above"
    )


def test_the_loader_refuses_a_label_that_only_it_sees(tmp_path):
    """Of a source that does not know its labels before it reads its records."""
    config = config_of(numbers=table(tmp_path / "set", [0, 1, 2]))
    (source,) = data.open_sources(config.data.train)
    reader = data.modalities.Image("image", 16)
    batches = data.train_batches(
        [source], config, [reader], rows=np.arange(8), start_step=0, classes=2
    )
    with pytest.raises(UserError, match=r"2\.png has the label 2, and the model tells 2 classes"):
        next(batches)


def test_who_learns_from_no_labels_is_not_asked_for_them(tmp_path):
    config = config_of(16, "masked_image", pets=folders(tmp_path / "pets", map(str, range(20))))
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        assert labels.count_classes(assemble(config, mesh)) == 0


def test_a_batch_of_more_than_all_examples_is_said(tmp_path, capsys):
    config = config_of(train=folders(tmp_path / "set", ["a", "b", "c"]))
    with prepared(config, tmp_path / "run"):
        pass
    assert "3 examples are fewer than a batch" in " ".join(capsys.readouterr().out.split())
