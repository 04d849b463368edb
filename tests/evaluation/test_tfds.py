"""A tiny imagenet2012 in the real layout, through the real TFDS builder, to zero-shot accuracy."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_run
from imagenet_files import jpeg, validation_name, write_tar

from mmjax import evaluation
from mmjax.data import build_imagenet, open_source
from mmjax.errors import UserError
from mmjax.evaluation.imagenet_source import open_imagenet
from mmjax.evaluation.words import wnids

COUNT = 9


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet")
    tars = folder / "tars"
    numbers = np.random.default_rng(0).permutation(COUNT) + 1
    members = [(validation_name(number), jpeg(number)) for number in numbers]
    write_tar(tars / "ILSVRC2012_img_val.tar", members)
    classes = []
    for label in (0, 7, 999):  # a tar of tars, one a class
        inner = folder / "inner.tar"
        wnid = wnids()[label]
        write_tar(inner, [(f"{wnid}_{n}.JPEG", jpeg(100 * label + n)) for n in range(2)])
        classes.append((f"{wnid}.tar", inner.read_bytes()))
    write_tar(tars / "ILSVRC2012_img_train.tar", classes)
    command = [sys.executable, "-m", "mmjax.data.build_imagenet"]
    command += [f"--tars={tars}", f"--output={folder / 'data'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert f"validation: {COUNT} examples" in done.stdout
    assert "train: 6 examples" in done.stdout
    return folder / "data"


@pytest.mark.tfds
def test_validation_labels_are_the_builders(data_dir):
    import tensorflow_datasets as tfds

    truth = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text().split()
    expected = {jpeg(n): wnids().index(truth[n - 1]) for n in range(1, COUNT + 1)}
    source, few = open_imagenet({"path": f"tfds://imagenet2012?data_dir={data_dir}"}, "v")
    assert not few
    assert {source[i].parts["image"]: source[i].label for i in range(len(source))} == expected
    assert all("ILSVRC2012_val_0000" in source[i].key for i in range(COUNT))


@pytest.mark.tfds
def test_training_images_come_from_the_tar_of_tars(data_dir):
    source = open_source({"path": f"tfds://imagenet2012?data_dir={data_dir}", "split": "train"})
    found = {source[i].parts["image"]: source[i].label for i in range(len(source))}
    expected = {jpeg(100 * label + n): label for label in (0, 7, 999) for n in range(2)}
    assert found == expected


@pytest.mark.tfds
def test_it_is_evaluated_without_tensorflow(data_dir, tmp_path):
    """By name and by folder: the same numbers as from plain folders of the same pictures."""
    config, model, params = small_run.run()

    def evaluate(path):
        spec = {"kind": "imagenet", "path": str(path), "templates": "plain", "subset": "all"}
        tokenizer = small_run.tokenizer()
        build = evaluation.build("v", spec, evaluation.Subject.of(config, model, tokenizer))
        return build(params)

    source, _ = open_imagenet({"path": f"tfds://imagenet2012?data_dir={data_dir}"}, "v")
    for number in range(COUNT):
        record = source[number]
        place = tmp_path / wnids()[record.label]
        place.mkdir(exist_ok=True)
        (place / f"{number}.JPEG").write_bytes(record.parts["image"])
    expected = evaluate(tmp_path)
    assert expected["examples"] == COUNT
    found = evaluate(f"tfds://imagenet2012?data_dir={data_dir}")
    assert {k: float(v) for k, v in found.items()} == expected
    (version,) = (data_dir / "imagenet2012").iterdir()
    assert evaluate(version) == expected
    here = Path(__file__).parent
    code = "import sys, test_tfds; test_tfds.read_without_tensorflow(sys.argv[1])"
    assert subprocess.run([sys.executable, "-c", code, data_dir], cwd=here).returncode == 0


def read_without_tensorflow(data_dir):
    """Reads all of it; for the process above."""
    source, _ = open_imagenet({"path": f"tfds://imagenet2012?data_dir={data_dir}"}, "v")
    assert [source[i].label >= 0 for i in range(len(source))] == [True] * COUNT
    assert "tensorflow" not in sys.modules


def test_tars_that_are_missing_are_said(tmp_path):
    with pytest.raises(UserError, match=r"holds none of ILSVRC2012_img_train\.tar and"):
        build_imagenet.build(tmp_path, tmp_path / "out")
    with pytest.raises(SystemExit):
        build_imagenet.main([f"--tars={tmp_path}", f"--output={tmp_path}"])


def test_a_missing_tensorflow_is_said(tmp_path, monkeypatch):
    (tmp_path / "ILSVRC2012_img_val.tar").touch()
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=r"pip install 'mmjax\[tfds-build\]'"):
        build_imagenet.build(tmp_path, tmp_path / "out")
