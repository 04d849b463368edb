"""Classes by name in every evaluator: folders in any order, what is unknown, what is written."""

import json

import jax
import pytest
import small_run
from imagenet_files import jpeg, write_folders, write_tar

from mmjax import config as config_lib
from mmjax import evaluation
from mmjax.errors import UserError
from mmjax.evaluation import command
from mmjax.evaluation.words import class_words, wnids
from mmjax.parallel.mesh import make_mesh

PETS = ["cat", "dog", "moon"]


def subject():
    config, model, _ = small_run.run()
    return evaluation.Subject.of(config, model, small_run.tokenizer())


def build(**spec):
    return evaluation.build("e", spec, subject())


def run(evaluator):
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        return evaluator(small_run.run()[2])


def folders(folder, names):
    """A class a folder, the images of which are told by the class's place in PETS."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for n in range(2):
            number = 2 * (PETS.index(name) if name in PETS else 7) + n
            (folder / name / f"{number}.jpg").write_bytes(jpeg(number))
    return str(folder)


def by_key(evaluator):
    source = evaluator._source
    return {source[n].key.split("/")[-2]: source[n].label for n in range(len(source))}


def words(tmp_path, lines):
    (tmp_path / "names.txt").write_text("\n".join(lines))
    return str(tmp_path / "names.txt")


def test_the_order_of_the_names_changes_no_metric(tmp_path):
    path = folders(tmp_path / "pets", PETS)
    metrics = []
    for order in (PETS, ["moon", "cat", "dog"]):
        evaluator = build(kind="classification", path=path, classes=words(tmp_path, order))
        assert by_key(evaluator) == {name: order.index(name) for name in PETS}
        metrics.append(run(evaluator))
    assert metrics[0] == metrics[1]


def test_numbered_folders_are_matched_and_it_is_said(tmp_path):
    path = tmp_path / "flowers"
    for n in range(1, 13):
        (path / str(n)).mkdir(parents=True)
        (path / str(n) / "a.jpg").write_bytes(jpeg(n))
    names = words(tmp_path, [f"flower {n}" for n in range(1, 13)])
    evaluator = build(kind="classification", path=str(path), classes=names)
    assert by_key(evaluator) == {str(n): n - 1 for n in range(1, 13)}
    rows = evaluator.classes.rows
    assert [(row.folder, row.name) for row in rows] == [
        (str(n), f"flower {n}") for n in range(1, 13)
    ]
    assert evaluator.classes.about == (
        "12 classes: 1 → 0 (flower 1), 2 → 1 (flower 2), 3 → 2 (flower 3), …, 12 → 11 (flower 12), "
        "matched by number, counted from 1"
    )


def test_ids_in_the_file_of_classes(tmp_path):
    path = folders(tmp_path / "pets", PETS)
    lines = ["dog\ta large dog", "moon\tthe moon", "cat\ta cat"]
    evaluator = build(kind="classification", path=path, classes=words(tmp_path, lines))
    assert by_key(evaluator) == {"dog": 0, "moon": 1, "cat": 2}
    assert [row.name for row in evaluator.classes.rows] == ["a large dog", "the moon", "a cat"]
    with pytest.raises(UserError, match=r"line 2 .*: write NAME on each line, or ID<tab>NAME"):
        class_words(words(tmp_path, ["dog\ta dog", "cat"]), "e")


def parquet(path, names, labels):
    """As `datasets.Dataset.to_parquet` writes images with a ClassLabel."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": jpeg(n), "path": None} for n in range(len(labels))]
    table = pa.table({"image": images, "label": labels})
    features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    content = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": content}), path)
    return str(path)


def test_class_labels_of_hugging_face_are_matched_by_name(tmp_path):
    path = parquet(tmp_path / "a.parquet", ["moon", "cat"], [0, 1, 1])
    evaluator = build(kind="classification", path=path, classes=words(tmp_path, PETS))
    assert [evaluator._source[n].label for n in range(3)] == [2, 0, 0]
    parquet(tmp_path / "b.parquet", ["cat", "moon"], [0, 1])
    with pytest.raises(
        UserError, match=r"b\.parquet and .*a\.parquet name the classes of 'label' "
    ):
        build(kind="classification", path=str(tmp_path), classes=words(tmp_path, PETS))


def test_folders_beside_the_known_ones_are_refused_or_counted(tmp_path):
    path = folders(tmp_path / "pets", [*PETS, "zebra"])
    spec = {"kind": "classification", "path": path, "classes": words(tmp_path, [*PETS, "tree"])}
    message = (
        r"1 of the 4 classes of the data are none of the names \('zebra'\): rename .*ID<tab>NAME"
    )
    with pytest.raises(UserError, match=message):
        build(**spec)
    evaluator = build(**spec, allow_skips=True)
    metrics = run(evaluator)
    assert (metrics["examples"], metrics["skipped"]) == (6, 2)
    assert "1 names are of no class of the data ('tree')" in evaluator.classes.about
    assert "('zebra'), and their records are left out" in evaluator.classes.about


@pytest.mark.parametrize("known", [wnids(), class_words("imagenet", "e").names], ids=["id", "name"])
def test_imagenet_takes_nothing_silently(tmp_path, known):
    """The public case: 34 of 68 images were evaluated, as the other folders were dropped."""
    write_folders(tmp_path, range(3), known)
    for name in ("n99999999", "zebras"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(jpeg(1))
    spec = {"kind": "imagenet", "path": str(tmp_path), "templates": "plain"}
    message = r"2 of the 5 classes of the data are none of the names \('n99999999', 'zebras'\)"
    with pytest.raises(UserError, match=message):
        build(**spec)
    evaluator = build(**spec, allow_skips=True)
    metrics = run(evaluator)
    assert (metrics["examples"], metrics["skipped"]) == (3, 2)


def test_imagenet_folders_that_count_from_one_are_refused(tmp_path):
    """1 … 1000 were read as 0 … 999; the ids of the devkit, too, count from 1, in another order."""
    for number in range(1, 1001):
        (tmp_path / str(number)).mkdir()
    (tmp_path / "7" / "a.jpg").write_bytes(jpeg(1))
    with pytest.raises(UserError, match=r"1 … 1000 count from 1, and nothing says in which order"):
        build(kind="imagenet", path=str(tmp_path))


def test_probe_and_knn_match_test_with_training(tmp_path):
    """The test set lacks a class, so that its positions are others."""
    train = folders(tmp_path / "train", PETS)
    test = folders(tmp_path / "test", ["cat", "moon"])
    evaluator = build(kind="knn", path=test, train=train, k=1)
    metrics = run(evaluator)
    assert (metrics["top1"], metrics["classes"]) == (1.0, 3)  # the same images: nearest is itself
    assert [row.folder for row in evaluator.classes.rows] == PETS
    folders(tmp_path / "test", ["zebra"])
    with pytest.raises(UserError, match=r"1 classes that are not in the training set \('zebra'\)"):
        build(kind="knn", path=test, train=train)
    metrics = run(build(kind="knn", path=test, train=train, k=1, allow_skips=True))
    assert (metrics["examples"], metrics["skipped"]) == (4, 2)


def test_the_loss_of_a_classifier_knows_the_classes_of_its_training(tmp_path):
    """The held-out set lacks a class, so that its positions are others; it is read by name."""
    config, model, _ = small_run.run()
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.objectives = {"classes": config_lib.entry("objectives", kind="classification")}
    trained = evaluation.Subject.of(config, model, small_run.tokenizer(), ("dog", "cat", "moon"))
    spec = {"kind": "loss", "batch_size": 8}
    for name in ("cat", "moon"):
        (tmp_path / "held" / name).mkdir(parents=True)
        for n in range(4):
            (tmp_path / "held" / name / f"{n}.jpg").write_bytes(jpeg(n))
    evaluator = evaluation.build("held", {**spec, "path": str(tmp_path / "held")}, trained)
    assert by_key(evaluator) == {"cat": 1, "moon": 2}
    assert evaluator.classes.about.startswith(
        "3 classes: dog → 0, cat → 1, moon → 2, as in training"
    )
    (tmp_path / "held" / "cat").rename(tmp_path / "held" / "zebra")
    with pytest.raises(UserError, match=r"1 classes that are not in the training set \('zebra'\)"):
        evaluation.build("held", {**spec, "path": str(tmp_path / "held")}, trained)


SHARDS = {
    "cls": [("a.cls", b"2")],
    "json": [("a.json", json.dumps({"label": 2, "url": ""}).encode())],
    "both": [("a.cls", b"2"), ("a.json", b'{"label": 0}')],
    "json cls": [("a.json", b'{"cls": 2}')],
}


@pytest.mark.parametrize("kind", SHARDS)
@pytest.mark.parametrize("task", ["imagenet", "classification"])
def test_labels_of_shards_are_found(tmp_path, kind, task):
    write_tar(tmp_path / "0.tar", [("a.jpg", jpeg(1)), *SHARDS[kind]])
    options = {} if task == "imagenet" else {"classes": words(tmp_path, PETS)}
    evaluator = build(kind=task, path=str(tmp_path / "0.tar"), templates="plain", **options)
    assert evaluator._source[0].label == 2
    assert evaluator.classes.rows[2].name == ("great white shark" if task == "imagenet" else "moon")


def test_shards_without_labels_say_what_they_have(tmp_path):
    write_tar(tmp_path / "0.tar", [("a.jpg", jpeg(1)), ("a.json", b'{"class_id": 2, "url": ""}')])
    message = (
        r"0\.tar has neither \.cls members nor a field label or cls in JSON, but \.jpg, \.json "
    )
    with pytest.raises(UserError, match=message + r"\(with class_id, url\): .* label=json:FIELD"):
        build(kind="imagenet", path=str(tmp_path / "0.tar"))
    options = {"templates": "plain", "label": "json:class_id"}
    evaluator = build(kind="imagenet", path=str(tmp_path / "0.tar"), **options)
    assert evaluator._source[0].label == 2


@pytest.mark.parametrize("task", ["imagenet", "classification", "knn"])
def test_a_table_of_images_and_labels_needs_no_captions(tmp_path, task):
    """The public case: it was told to name its caption column."""
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    rows = "".join(f"{number}.jpg,{number}\n" for number in range(3))
    (tmp_path / "set.csv").write_text("image,label\n" + rows)
    (tmp_path / "train.csv").write_text("image,label\n" + rows)
    options = {"imagenet": {}, "classification": {"classes": words(tmp_path, PETS)},
               "knn": {"train": str(tmp_path / "train.csv"), "k": 1}}[task]  # fmt: skip
    if task != "knn":
        options["templates"] = "plain"
    metrics = run(build(kind=task, path=str(tmp_path / "set.csv"), **options))
    assert metrics["examples"] == 3
    if task == "knn":
        assert metrics["top1"] == 1.0


def test_labels_that_count_from_one_are_told_so(tmp_path):
    for number in (1, 2, 3):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "set.csv").write_text("image,label\n1.jpg,1\n2.jpg,2\n3.jpg,3\n")
    evaluator = build(
        kind="classification", path=str(tmp_path / "set.csv"), classes=words(tmp_path, PETS)
    )
    with pytest.raises(UserError, match=r"the label 3, .* the labels seem to count from 1"):
        run(evaluator)


def test_the_mapping_is_printed_and_written_beside_the_results(tmp_path, monkeypatch, capsys):
    config, model, params = small_run.run()
    restored = (config, model, params, small_run.tokenizer())
    monkeypatch.setattr(command, "restore_for_inference", lambda workdir: restored)
    evaluation.evaluate(
        "run", task="classification", data=folders(tmp_path / "pets", PETS),
        classes=words(tmp_path, ["moon", "cat", "dog"]), batch_size=8,
        output=tmp_path / "results.json",
    )  # fmt: skip
    written = (tmp_path / "results.classes.tsv").read_text().splitlines()
    assert written == [
        "of\tlabel\tfolder\tclass", "classification\t0\tmoon\tmoon", "classification\t1\tcat\tcat",
        "classification\t2\tdog\tdog",
    ]  # fmt: skip
    said = "classification: 3 classes: moon → 0, cat → 1, dog → 2, matched by name"
    assert said in capsys.readouterr().err


def write_labels(folder, kind, label):
    """Two images: one of the label 1, and one with whatever `label` is, as JSON."""
    values = [1, label]
    if kind == "cls":
        members = [(f"{n}.cls", json.dumps(v).strip("[]").encode()) for n, v in enumerate(values)]
    else:
        members = [(f"{n}.json", json.dumps({"label": v}).encode()) for n, v in enumerate(values)]
    for number in range(2):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
    if kind in ("cls", "json"):
        images = [(f"{n}.jpg", jpeg(n)) for n in range(2)]
        write_tar(folder / "set.tar", sorted([*images, *members]))
        return folder / "set.tar"
    if kind == "jsonl":
        lines = [json.dumps({"image": f"{n}.jpg", "label": v}) for n, v in enumerate(values)]
        (folder / "set.jsonl").write_text("\n".join(lines))
        return folder / "set.jsonl"
    if kind == "csv":
        (folder / "set.csv").write_text(f'image,label\n0.jpg,1\n1.jpg,"{json.dumps(label)}"\n')
        return folder / "set.csv"
    (folder / "set.csv").write_text("image,label\n0.jpg,1\n1.jpg,2\n1.jpg,0\n")
    return folder / "set.csv"


@pytest.mark.parametrize("kind", ["cls", "json", "jsonl", "csv", "rows"])
def test_several_labels_of_an_image_are_refused_and_never_one_of_them(tmp_path, kind):
    path = write_labels(tmp_path, kind, [2, 0])
    spec = {"kind": "classification", "path": str(path), "classes": words(tmp_path, PETS)}
    with pytest.raises(UserError, match=r"label|without an integer 'cls'"):
        build(**spec)
    if kind in ("cls", "json"):  # tables are refused with the line, whatever may be skipped
        metrics = run(build(**spec, allow_skips=True))
        assert (metrics["examples"], metrics["skipped"]) == (1, 1)


def test_retrieval_counts_each_line_of_a_text_as_a_caption(tmp_path):
    """The shards of CLIP_benchmark: R@K over two texts is another task than over six."""
    texts = ["red bird.\nsmall bird\nbird", "sea\nblue sea\nlarge sea"]
    members = []
    for number, text in enumerate(texts):
        members += [(f"s{number}.jpg", jpeg(number)), (f"s{number}.txt", text.encode())]
    write_tar(tmp_path / "0.tar", members)
    (tmp_path / "files").mkdir()
    for member, content in members:
        (tmp_path / "files" / member).write_bytes(content)
    folder, shards = (
        run(build(kind="retrieval", path=str(tmp_path / path))) for path in ("files", "0.tar")
    )
    assert shards == folder
    assert (shards["images"], shards["texts"]) == (2, 6)


def test_where_classes_are_wanted_texts_beside_images_are_not_asked_for(tmp_path):
    """Folders say the classes, captions in them or a table of captions notwithstanding."""
    path = folders(tmp_path / "pets", ["dog", "cat"])
    names = words(tmp_path, PETS)
    (tmp_path / "pets" / "cat" / "0.txt").write_text("a caption")
    (tmp_path / "pets" / "metadata.csv").write_text("file_name,text\ncat/0.jpg,a caption\n")
    assert by_key(build(kind="classification", path=path, classes=names)) == {"cat": 0, "dog": 1}
    (tmp_path / "pets" / "cat" / "0.txt").unlink()
    rows = "".join(f"{one}/{n}.jpg,{one}\n" for one, ns in (("cat", (0, 1)), ("dog", (2, 3)))
                   for n in ns)  # fmt: skip
    (tmp_path / "pets" / "metadata.csv").write_text("file_name,label\n" + rows)
    evaluator = build(kind="classification", path=path, classes=names)
    assert by_key(evaluator) == {"cat": 0, "dog": 1}
    assert evaluator._source.account.found[0].startswith("read as csv")


def test_lines_of_a_table_are_no_names(tmp_path):
    with pytest.raises(UserError, match="begin with numbers, as '0,cat': write NAME on each"):
        class_words(words(tmp_path, ["0,cat", "1,dog"]), "e")
    assert class_words(words(tmp_path, ["1, 2 or 3", "dog"]), "e").names == ["1, 2 or 3", "dog"]


def test_labels_of_tars_that_are_no_numbers_are_said(tmp_path):
    write_tar(tmp_path / "0.tar", [("0.jpg", jpeg(0)), ("0.cls", b"cat")])
    with pytest.raises(UserError, match="is label='cls' right, a field or member of whole numbers"):
        build(kind="classification", path=str(tmp_path / "0.tar"), classes=words(tmp_path, PETS))
