"""Annotations of well-known sets of videos, each told by its content."""

import csv
import json

import pytest

from mmjax import datatools
from mmjax.data import open_source
from mmjax.data.videos import open_video
from mmjax.errors import UserError

pytest.importorskip("av")
import films

MOVIES = [films.film(films.pictures(20, seed), b_frames=0) for seed in range(3)]


def put(folder, *names):
    """Films of these names, in the order of MOVIES."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(MOVIES[number % 3])


def table(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def as_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def read(path, **keys):
    return open_source({"path": path, **keys})


def captions(source):
    return [source.captions(n) for n in range(len(source))]


def is_shown(source, index, movie):
    (shown,) = open_video(source[index].part("video")).read([0])
    return (shown == films.sequential(MOVIES[movie])[0][1]).all()


KINETICS = ("label", "youtube_id", "time_start", "time_end", "split")


def kinetics(folder, *names):
    put(folder / "clips", *names)
    return table(
        folder / "val.csv", KINETICS,
        ("zumba", "-abc", 1, 11, "validate"), ("abseiling", "b_c", 100, 110, "validate"),
        ("zumba", "gone", 0, 10, "validate"), ("zumba", "odd", 5, 4, "validate"),
        ("zumba", "odd", "x", 4, "validate"),
    )  # fmt: skip


@pytest.mark.parametrize("folder", ["", "zumba/", "abseiling/"])
def test_kinetics_flat_and_in_class_folders(tmp_path, folder):
    path = kinetics(tmp_path, f"{folder}-abc_000001_000011.mp4", "b_c_000100_000110.mkv")
    for keys in ({}, {"split": "val"}, {"media": "video"}):
        source = read(path, **keys)
        assert source.account.found[0].startswith("read as kinetics")
        assert source.classes == ("abseiling", "zumba")
        assert source.labels.tolist() == [1, 0]
        assert is_shown(source, 0, 0)
        assert is_shown(source, 1, 1)
        assert source.skipped == {
            "whose video file is missing": 1,
            "whose clip ends before it starts": 1,
            "whose time_start 'x' is no time in seconds": 1,
        }
    assert source.account.first["whose video file is missing"].endswith("gone_000000_000010.mp4")
    assert open_source({"path": path}, labels=True, unset="test").labels.tolist() == [1, 0]


def test_kinetics_without_videos_or_labels(tmp_path):
    path = kinetics(tmp_path / "deep" / "er", "other.mp4")
    with pytest.raises(UserError, match=r"no file of the video '-abc_000001_000011' and 2 others"):
        read(path)
    put(tmp_path, "x_000000_000010.mp4")
    test = table(tmp_path / "test.csv", KINETICS[1:], ("x", 0, 10, "test"))
    with pytest.raises(UserError, match="without a label"):
        read(test, split="test")


def msrvtt(folder):
    put(folder / "videos" / "all", *(f"video{n}.mp4" for n in range(5)))
    of = ("train", "train", "validate", "test", "test")
    videos = [{"video_id": f"video{n}", "split": split, "id": n} for n, split in enumerate(of)]
    sentences = [
        {"caption": f"caption {k} of {n}", "video_id": f"video{n}", "sen_id": 2 * n + k}
        for n in range(5)
        for k in range(2)
    ]
    table(
        folder / "annotation/MSRVTT_JSFUSION_test.csv", ("key", "vid_key", "video_id", "sentence"),
        ("ret0", "msr3", "video3", "caption 1 of 3"),
    )  # fmt: skip
    sentences.append({"caption": "of none", "video_id": "video99"})
    content = {"info": {}, "videos": videos, "sentences": sentences}
    return as_json(folder / "annotation/MSRVTT_data.json", content)


@pytest.mark.parametrize(
    ("split", "videos", "each"),
    [
        ("", (0, 1), 2), ("train", (0, 1), 2), ("val", (2,), 2), ("test", (3, 4), 2),
        ("train-7k", (0, 1, 2), 2), ("train-9k", (0, 1, 2, 4), 2), ("1k-A", (3,), 1),
        ("train+val", (0, 1, 2), 2),
    ],
)  # fmt: skip
def test_splits_of_msrvtt_by_the_names_people_use(tmp_path, split, videos, each):
    source = read(msrvtt(tmp_path), split=split)
    assert [len(found) for found in captions(source)] == [each] * len(videos)
    assert [int(found[0][-1]) for found in captions(source)] == list(videos)
    assert is_shown(source, 0, videos[0] % 3)
    assert source.skipped == {"captions of no video in the file": 1}


def test_msrvtt_1ka_is_its_table_alone(tmp_path):
    path = msrvtt(tmp_path)
    test = tmp_path / "annotation/MSRVTT_JSFUSION_test.csv"
    source = open_source({"path": str(test)}, unset="test")
    assert captions(source) == [("caption 1 of 3",)]
    with pytest.raises(UserError, match=r"no split '9k', but 1k-A, test, train, train-7k"):
        read(path, split="9k")
    test.unlink()
    with pytest.raises(UserError, match=r"is said by MSRVTT_JSFUSION_test\.csv, which is not"):
        read(path, split="train-9k")


def test_activitynet_paragraphs(tmp_path):
    put(tmp_path / "videos", "v_a.mp4", "v_b.mkv")
    about = {"duration": 9, "timestamps": [[4, 9], [0, 5]], "sentences": [" Then. ", "First."]}
    for part, video in (("train", "v_a"), ("val_1", "v_b"), ("val_2", "v_gone")):
        as_json(tmp_path / f"{part}.json", {video: about, "v_gone": about})
    source = read(str(tmp_path / "val_1.json"), media="video")
    assert captions(source) == [("First. Then.",)]
    assert source.skipped == {"whose video file is missing": 1}
    assert is_shown(source, 0, 1)
    every = str(tmp_path / "{train,val_1,val_2}.json")
    assert is_shown(read(every, split="val1"), 0, 1)
    assert is_shown(read(every), 0, 0)  # train
    with pytest.raises(UserError, match="no split 'test', but train, val1, val2"):
        open_source({"path": every}, unset="test")
    as_json(tmp_path / "bad.json", {"v_a": about | {"sentences": ["one"]}})
    with pytest.raises(UserError, match="something else than videos with sentences"):
        read(str(tmp_path / "bad.json"))


def test_didemo_paragraphs_of_its_thirty_seconds(tmp_path):
    long = films.film(films.pictures(5), times=[0, 10_000, 20_000, 29_900, 30_500], b_frames=0)
    put(tmp_path / "videos", "1@N00_2_3.mp4")
    (tmp_path / "videos/1@N00_2_3.mp4").write_bytes(long)
    rows = [
        {"num_segments": 6, "description": text, "video": "1@N00_2_3.AVI", "times": times}
        for text, times in (("late", [[4, 4], [4, 5], [5, 5]]), ("early", [[0, 1], [0, 0]]))
    ]
    as_json(tmp_path / "train_data.json", rows[:1])
    test = as_json(tmp_path / "test_data.json", rows)
    source = open_source({"path": test}, unset="test")
    assert captions(source) == [("early late",)]
    assert len(open_video(source[0].part("video")).times) == 4
    every = str(tmp_path / "*_data.json")
    assert captions(read(every)) == [("late",)]


WEBVID = ("videoid", "contentUrl", "duration", "page_dir", "name")


def test_webvid(tmp_path):
    put(tmp_path / "videos", "000001_000050/21.mp4", "000051_000100/22.mp4")
    path = table(
        tmp_path / "results_2M_val.csv", WEBVID,
        (21, "https://x/21.mp4", "PT00H00M09S", "000001_000050", 'A "dog", running'),
        (22, "https://x/22.mp4", "PT00H00M19S", "000051_000100", "Cat"),
        (23, "https://x/23.mp4", "PT00H00M19S", "000051_000100", "Gone"),
        (24, "https://x/24.mp4", "PT00H00M19S", "", "Nowhere"),
    )  # fmt: skip
    source = read(path)
    assert captions(source) == [('A "dog", running',), ("Cat",)]
    assert is_shown(source, 1, 1)
    assert source.skipped == {"whose video file is missing": 1, "without videoid or page_dir": 1}
    assert captions(read(path, filter="videoid > 21")) == [("Cat",)]
    with pytest.raises(UserError, match="set image to the folder of the videos"):
        read(path, image="elsewhere")


def test_tables_of_other_columns_stay_tables(tmp_path):
    put(tmp_path, "a.mp4")
    path = table(tmp_path / "t.csv", ("youtube_id", "time_start", "time_end", "video", "caption"),
                 ("a", 0, 1, "a.mp4", "text"))  # fmt: skip
    source = read(path, media="video")
    assert source.account.found[0].startswith("read as csv")
    with pytest.raises(UserError, match="media='regions' is not in it"):
        read(kinetics(tmp_path, "-abc_000001_000011.mp4"), media="regions")


def test_they_are_inspected(tmp_path):
    path = kinetics(tmp_path, "-abc_000001_000011.mp4", "b_c_000100_000110.mp4")
    facts = datatools.inspect(path, sheet=str(tmp_path / "sheet.png"))
    assert (facts["records"], facts["bad"], facts["formats"]) == (2, 0, {"video": 2})
    assert facts["left out"]["whose video file is missing"] == 1
    facts = datatools.inspect(msrvtt(tmp_path), sheet=str(tmp_path / "sheet.png"), split="1k-A")
    assert facts["distributions"]["frames"]["median"] == 20
