"""ImageNet's layouts: every one gives the same labels, and what is not known is refused."""

import json

import pytest
from imagenet_files import devkit, jpeg, validation_name, write_folders, write_tar, write_validation

from mmjax.data import open_source
from mmjax.errors import UserError
from mmjax.evaluation.classes import named
from mmjax.evaluation.imagenet_source import open_imagenet, open_real
from mmjax.evaluation.words import class_words, wnids

LABELS = [3, 999, 0, 3, 207, 10, 2]


def read(spec):
    """Label by picture, and whether the source is of fewer classes."""
    source, few = open_imagenet({"path": str(spec)} if not isinstance(spec, dict) else spec, "v")
    names, ids = class_words("imagenet", "v")
    source, _ = named(source, names, ids, "v", allow_skips=False, from_one=False)
    by_image = {jpeg(number): number for number in range(1, len(LABELS) + 1)}
    found = [source[i] for i in range(len(source))]
    assert len(found) == len(LABELS)
    assert all(record.captions == () for record in found)
    return {by_image[record.parts["image"]]: record.label for record in found}, few


RIGHT = dict(enumerate(LABELS, start=1))


def test_wordnet_ids_are_in_the_order_of_the_names():
    names, ids = class_words("imagenet", "v")
    assert len(ids) == len(set(ids)) == 1000
    assert ids == sorted(ids)
    known = {"n01440764": "tench", "n02123045": "tabby cat", "n15075141": "toilet paper"}
    assert {wnid: names[ids.index(wnid)] for wnid in known} == known


@pytest.mark.parametrize("where", ["", "ILSVRC2012_img_val.tar"])
def test_validation_tar_takes_labels_from_the_devkit(tmp_path, where):
    write_validation(tmp_path, LABELS)
    assert read(tmp_path / where) == (RIGHT, False)


@pytest.mark.parametrize("where", ["", "ILSVRC2012_devkit_t12/data"])
def test_the_devkit_may_be_unpacked(tmp_path, where):
    write_validation(tmp_path, LABELS)
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    (tmp_path / where).mkdir(parents=True, exist_ok=True)
    for name, content in devkit(LABELS):
        (tmp_path / where / name).write_bytes(content)
    assert read(tmp_path) == (RIGHT, False)


def test_validation_tar_without_its_devkit_is_refused(tmp_path):
    write_validation(tmp_path, LABELS)
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(UserError, match=r"meta\.mat of the devkit: put ILSVRC2012_devkit_t12\.tar"):
        open_imagenet({"path": str(tmp_path)}, "v")
    for name, _ in devkit(LABELS):
        (tmp_path / name).write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"the devkit in .* is damaged"):
        open_imagenet({"path": str(tmp_path)}, "v")


@pytest.mark.parametrize("split", ["", "val", "train"])
def test_folders_by_wordnet_id(tmp_path, split):
    write_folders(tmp_path / split, LABELS, wnids())
    (tmp_path / "README.txt").write_text("as -A and -R have")
    assert read({"path": str(tmp_path), "split": split}) == (RIGHT, True)


def test_folders_by_number_are_in_numeric_order(tmp_path):
    write_folders(tmp_path, LABELS, [str(number) for number in range(1000)])
    assert read(tmp_path) == (RIGHT, True)


def test_all_thousand_folders_are_the_whole_set(tmp_path):
    write_folders(tmp_path, LABELS, wnids())
    for wnid in wnids():
        (tmp_path / wnid).mkdir(exist_ok=True)
    assert read(tmp_path) == (RIGHT, False)


def test_webdataset_shards_have_their_labels_in_cls(tmp_path):
    members = []
    for number, label in enumerate(LABELS, start=1):
        members += [(f"{number:04d}.jpg", jpeg(number)), (f"{number:04d}.cls", b"%d\n" % label)]
    for name, few in {"shards": False, "imagenet-a": True, "imagenet_r": True}.items():
        folder = tmp_path / name  # that a set has 200 classes alone, only its name says
        write_tar(folder / "0.tar", members[:8])
        write_tar(folder / "1.tar", members[8:])
        assert read(folder) == (RIGHT, few)
        assert read(folder / "{0..1}.tar") == (RIGHT, few)


def test_webdataset_pairs_with_a_bad_class_are_left_out(tmp_path):
    members = [("a.jpg", jpeg(1)), ("a.cls", b"7"), ("b.jpg", jpeg(2)), ("b.cls", b"tench")]
    write_tar(tmp_path / "0.tar", members)
    source, _ = open_imagenet({"path": str(tmp_path)}, "v")
    assert [source[i].label for i in range(len(source))] == [7]
    assert source.skipped == {"without an integer 'cls'": 1}


def test_folders_in_another_order_are_refused(tmp_path):
    write_folders(tmp_path, [0, 1], ["Schleie", "Goldfisch"])
    with pytest.raises(UserError, match=r"holds none of: classes by WordNet id"):
        open_imagenet({"path": str(tmp_path)}, "v")


def test_real_labels_follow_the_number_in_the_name(tmp_path):
    write_folders(tmp_path / "val", LABELS, wnids())
    answers = [[3], [999, 4], [], [7], [207], [10], [2]]
    (tmp_path / "real.json").write_text(json.dumps(answers))
    source, _ = open_imagenet({"path": str(tmp_path)}, "v")
    numbered, right = open_real(source, tmp_path / "real.json", "v")
    assert right == [tuple(labels) for labels in answers]
    for i in range(len(source)):
        record = numbered[i]
        assert record.key.endswith(validation_name(record.label + 1))
        assert record.parts["image"] == source[i].parts["image"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"evals\.v\.real: cannot read .*real\.json"),
        ("{", "is no list of lists"),
        ("[1, 2]", "is no list of lists"),
        ("[[1000]]", "has the label 1000; labels are 0 to 999"),
        ("[[1]]", "not one of 1 labelled images, as ReaL labels need"),
    ],
)
def test_real_labels_that_do_not_fit_are_said(tmp_path, content, message):
    write_folders(tmp_path / "val", [1, 2], wnids())
    (tmp_path / "val" / wnids()[1] / validation_name(1)).unlink()
    if content is not None:
        (tmp_path / "real.json").write_text(content)
    source, _ = open_imagenet({"path": str(tmp_path)}, "v")
    with pytest.raises(UserError, match=message):
        open_real(source, tmp_path / "real.json", "v")


def test_real_labels_need_the_names_of_2012(tmp_path):
    (tmp_path / "real.json").write_text("[[1]]")
    source = open_source({"path": "generated:3"}, "v")
    with pytest.raises(UserError, match=r"v: record 0 has no number as ILSVRC2012_val_00000001"):
        open_real(source, tmp_path / "real.json", "v")
