"""Classes by name: every way in which folders and names of classes can meet, or fail to."""

import random

import numpy as np
import pytest
from pictures import encode, picture

from mmjax.data import BadRecord, open_source
from mmjax.data.classes import (
    Class,
    about_order,
    describe,
    in_order,
    mapped,
    match,
    names_in,
    of_tsv,
    to_tsv,
)
from mmjax.errors import UserError

PETS = ["cat", "dog", "Great Dane", "emu"]


def labels(folders, names, ids=(), **options):
    return match(folders, names, ids, **options).labels.tolist()


def images(folder, names):
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.png").write_bytes(encode(picture(number)))
    return folder


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 12, 101, 1001])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("width", [1, 4])
def test_folders_that_are_numbers_are_their_numbers(count, first, width):
    """In whatever order they are listed; padded or not."""
    folders = [f"{n:0{width}d}" for n in range(first, first + count)]
    shuffled = random.Random(0).sample(folders, count)
    assert in_order(shuffled) == folders
    names = [f"flower {n}" for n in range(count)]
    if first == 1 and count == 1:  # the folder 1 of one class
        assert labels(folders, names) == [0]
    assert labels(folders, names) == list(range(count))
    assert match(folders, names).how == "by number" + ", counted from 1" * first
    said = about_order(folders)
    assert said == "" if first == 0 else "count from 1, labels from 0" in said


def test_numbers_with_gaps_are_never_shifted():
    names = [f"flower {n}" for n in range(5)]
    assert labels(["0", "2", "3"], names) == [0, 2, 3]
    assert labels(["2", "5"], names) == [1, 4]
    assert "numbers with gaps" in about_order(["0", "2", "3"])
    with pytest.raises(UserError, match=r"2 … 3 may count from 0 or from 1, as neither 0 nor 5"):
        match(["2", "3"], names)
    with pytest.raises(UserError, match=r"the folders 0 … 5 are no labels of 5 classes, 0 … 4"):
        match(list("012345"), names)
    with pytest.raises(UserError, match=r"the folders 7 … 9 are no labels of 5 classes"):
        match(list("789"), names)
    with pytest.raises(UserError, match="two folders are the same number"):
        match(["1", "01"], names)
    with pytest.raises(UserError, match=r"1 … 5 count from 1, and nothing says in which order"):
        match(list("12345"), names, from_one=False)


def test_names_decide_whatever_the_order():
    for seed in range(10):
        names = random.Random(seed).sample(PETS, len(PETS))
        folders = in_order(PETS[: 1 + seed % 4])
        assert labels(folders, names) == [names.index(folder) for folder in folders]


@pytest.mark.parametrize(
    "folder",
    ["Great Dane", "great dane", "Great_Dane", "great-dane", "007.Great_Dane", "GREAT_DANE"],
)
def test_case_and_underscores_and_a_number_in_front_do_not_matter(folder):
    assert labels([folder, "emu"], PETS) == [2, 3]


def test_the_exact_name_comes_before_a_similar_one():
    assert labels(["Cat", "cat"], ["cat", "Cat", "dog"]) == [1, 0]
    with pytest.raises(UserError, match="'Great-Dane' and 'great_dane' are both 'Great Dane'"):
        match(["Great-Dane", "great_dane"], PETS)


def test_ids_are_names_too():
    ids = ["n03", "n01", "n02"]
    assert labels(["n01", "n02", "n03"], ["c", "a", "b"], ids) == [1, 2, 0]


def test_what_is_no_class_has_no_label():
    assert labels(["cat", "zebra", "dog"], PETS) == [0, -1, 1]
    assert labels(["missile", "tank"], ["missile", "tank", "missile"]) == [-1, 1]  # one of two


def test_order_alone_decides_only_where_there_is_no_doubt():
    found = match(["a01", "a02", "a03"], ["ant", "bee", "cow"])
    assert (found.labels.tolist(), "by their order alone" in found.how) == ([0, 1, 2], True)
    folders = in_order([f"class{n}" for n in range(1, 13)])
    assert folders[1] == "class10"  # as ImageFolder
    message = (
        r"in lexicographic order \(class1, class10, class11, …\), which is not the natural one "
        r"\(class1, class2, class3, …\)"
    )
    with pytest.raises(UserError, match=message):
        match(folders, [f"number {n}" for n in range(1, 13)])
    with pytest.raises(
        UserError, match=r"3 class names are given .* 2 classes \('x', 'y'\), and none"
    ):
        match(["x", "y"], ["ant", "bee", "cow"])


def test_the_first_three_and_the_last_are_said():
    classes = [Class(n, f"n{n}", f"class {n}") for n in range(40)]
    said = describe(classes)
    assert said == (
        "40 classes: n0 → 0 (class 0), n1 → 1 (class 1), n2 → 2 (class 2), …, n39 → 39 (class 39)"
    )
    assert describe([Class(0, "cat", "cat")]) == "1 classes: cat → 0"
    odd = {"odd": [Class(0, "tab\tand\nline", 'a "quote"')], "pets": classes[:2]}
    assert of_tsv(to_tsv(odd)) == odd
    lines = to_tsv({"pets": classes[:2]}).splitlines()
    assert lines == ["of\tlabel\tfolder\tclass", "pets\t0\tn0\tclass 0", "pets\t1\tn1\tclass 1"]


def test_folders_of_numbers_are_opened_in_numeric_order_and_it_is_said(tmp_path):
    """The public case: the folder 2 of 1 … 12 was label 4."""
    source = open_source({"path": str(images(tmp_path, map(str, range(1, 13))))})
    found = {source[n].key.split("/")[-2]: source[n].label for n in range(len(source))}
    assert found == {str(n): n - 1 for n in range(1, 13)}
    assert source.classes == tuple(map(str, range(1, 13)))
    said = "the folders count from 1, labels from 0: the folder 12 is label 11"
    assert said in source.account.found
    assert source.labels.tolist() == list(range(12))


def test_an_order_that_is_in_doubt_is_said(tmp_path):
    source = open_source({"path": str(images(tmp_path, ["c1", "c2", "c10"]))})
    assert source.classes == ("c1", "c10", "c2")
    assert "lexicographic order (c1, c10, c2, …)" in " ".join(source.account.found)


def test_hidden_folders_are_no_classes_and_empty_ones_are_said(tmp_path):
    names = ["cat", "dog", ".ipynb_checkpoints", "__MACOSX", "@eaDir"]
    folder = images(tmp_path, names)
    (folder / "bee").mkdir()
    source = open_source({"path": str(folder)})
    assert source.classes == ("bee", "cat", "dog")
    assert source.labels.tolist() == [1, 2]
    assert "1 folders hold no image (first: 'bee')" in source.account.found


def test_relabelled_records_of_no_class_are_bad_and_named(tmp_path):
    source = open_source({"path": str(images(tmp_path, ["cat", "dog", "zebra"]))})
    found = mapped(source, np.array([5, 2, -1], np.int32))
    assert [found[n].label for n in range(2)] == [5, 2]
    with pytest.raises(
        BadRecord, match=r"zebra/a\.png is of 'zebra', which is none of the classes"
    ):
        found[2]


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["dog", " cat ", None, "", "dog"], {"cat": 0, "dog": 1}),
        (["10th", "2nd"], {"10th": 0, "2nd": 1}),
        (["1", "2"], {}), (["cat", "2"], {}), (["1.5", "cat"], {}), (["True", "False"], {}),
        ([1, 2], {}), (["cat", 1], {}), ([["cat"]], {}), ([], {}), ([None, "nan"], {}),
    ],
)  # fmt: skip
def test_labels_that_are_names_are_numbered(values, classes):
    assert names_in(values) == classes
