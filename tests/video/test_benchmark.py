"""The protocols of TVSum and SumMe on small made data, against counting by hand."""

import builtins

import numpy as np
import pytest
from scipy.stats import kendalltau

from mmjax.cli import main
from mmjax.errors import UserError
from mmjax.video import benchmark
from mmjax.video.benchmarking import read_videos, summary


def made(frames=200, users=4, seed=0):
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.choice(np.arange(10, frames - 10), 14, replace=False))
    first, last = np.append(0, ends), np.append(ends - 1, frames - 1)
    picks = np.arange(0, frames, 15)
    return {
        "change_points": np.stack([first, last], axis=1),
        "n_frames": np.array(frames),
        "picks": picks,
        "gtscore": rng.random(len(picks)),
        "user_summary": (rng.random((users, frames)) < 0.2).astype(np.float32),
        "features": rng.normal(size=(len(picks), 8)).astype(np.float32),
    }


@pytest.fixture
def file(tmp_path):
    videos = {f"video_{n}": made(seed=n, frames=200 + 7 * n) for n in range(3)}
    arrays = {f"{name}/{field}": x for name, of in videos.items() for field, x in of.items()}
    np.savez(tmp_path / "made.npz", **arrays)
    return tmp_path / "made.npz"


def test_a_summary_is_of_the_segments_worth_most_within_15_percent():
    fields = {
        "change_points": np.array([[0, 39], [40, 54], [55, 64], [65, 99]]),
        "n_frames": np.array(100),
        "picks": np.array([0, 20, 40, 60, 80]),
        "user_summary": np.zeros((1, 100)),
        "gtscore": np.zeros(5),
    }
    chosen = summary(np.array([9.0, 9.0, 2.0, 4.0, 9.0]), fields)
    # Worth: 9; 2; (5 · 2 + 5 · 4) / 10 = 3; more. 15 frames hold the second (15) or the third (10).
    assert np.flatnonzero(chosen).tolist() == list(range(55, 65))
    chosen = summary(np.array([9.0, 9.0, 8.0, 4.0, 9.0]), fields)
    assert np.flatnonzero(chosen).tolist() == list(range(40, 55))


def f1(chosen, user):
    both = sum(1 for a, b in zip(chosen, user, strict=True) if a and b)
    if not both:
        return 0.0
    precision, recall = both / sum(chosen), both / sum(user)
    return 100 * 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(("protocol", "mean"), [("tvsum", np.mean), ("summe", np.max)])
def test_f1_and_tau_are_those_of_counting(file, protocol, mean):
    rng = np.random.default_rng(5)
    videos = read_videos(file)
    scores = {name: rng.random(len(of["picks"])) for name, of in videos.items()}
    ours, by_chance, people = benchmark(file, protocol=protocol, scores=scores)
    expected, taus, human = [], [], []
    for name, of in videos.items():
        chosen, users = summary(scores[name], of), of["user_summary"]
        assert 0 < chosen.sum() <= 0.15 * len(chosen)
        expected.append(mean([f1(chosen, user) for user in users]))
        taus.append(kendalltau(scores[name], of["gtscore"]).statistic)
        for n, user in enumerate(users):
            others = [f1(user, other) for m, other in enumerate(users) if m != n]
            human.append(mean(others))
    assert ours.f1 == pytest.approx(np.mean(expected))
    assert ours.tau == pytest.approx(np.mean(taus))
    assert people.f1 == pytest.approx(np.mean(human))
    assert abs(by_chance.tau) < 0.1
    assert by_chance.f1 > 0


def test_scores_of_people_are_worth_more_than_random_ones(file):
    truth = {name: of["gtscore"] for name, of in read_videos(file).items()}
    ours, by_chance, _ = benchmark(file, protocol="tvsum", scores=truth)
    assert ours.tau == pytest.approx(1)
    assert by_chance.tau < 0.1
    assert benchmark(file, protocol="tvsum", scores=truth)[1] == by_chance  # the same draws


def test_the_command_ranks_by_the_features_of_the_file(file, tmp_path, capsys):
    main(["video", "benchmark", str(file), "--protocol=summe"])
    printed = capsys.readouterr().out
    assert "facility location" in printed
    assert "random scores, 100 draws" in printed
    scores = {name: of["gtscore"] for name, of in read_videos(file).items()}
    np.savez(tmp_path / "scores.npz", **scores)
    main(["video", "benchmark", str(file), "--protocol=tvsum", f"--scores={tmp_path}/scores.npz"])
    assert "1.000" in capsys.readouterr().out


def test_the_files_that_people_share(file, tmp_path):
    h5py = pytest.importorskip("h5py")
    videos = read_videos(file)
    with h5py.File(tmp_path / "made.h5", "w") as out:
        for name, fields in videos.items():
            for field, array in fields.items():
                out[f"{name}/{field}"] = array
            out[f"{name}/n_steps"] = len(fields["picks"])
    of_h5 = benchmark(tmp_path / "made.h5", protocol="tvsum")
    of_npz = benchmark(file, protocol="tvsum")
    assert [row.f1 for row in of_h5] == [row.f1 for row in of_npz]


def test_mistakes_have_their_sentence(file, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="neither 'tvsum' nor 'summe'"):
        benchmark(file, protocol="tvsun")
    with pytest.raises(UserError, match=r"no scores of video_0"):
        benchmark(file, protocol="tvsum", scores={})
    names = read_videos(file)
    with pytest.raises(UserError, match=r"scores of video_0 are \[3\]: it has 14 picks"):
        benchmark(file, protocol="tvsum", scores={name: np.zeros(3) for name in names})
    with pytest.raises(UserError, match=r"absent\.npz cannot be read"):
        benchmark(tmp_path / "absent.npz", protocol="tvsum")
    np.savez(tmp_path / "part.npz", **{"video_1/picks": np.arange(3)})
    with pytest.raises(UserError, match=r"video_1 has no change_points"):
        benchmark(tmp_path / "part.npz", protocol="tvsum")
    fields = {f"v/{field}": x for field, x in made().items() if field != "features"}
    np.savez(tmp_path / "bare.npz", **fields)
    with pytest.raises(UserError, match=r"v has no features: give scores"):
        benchmark(tmp_path / "bare.npz", protocol="tvsum")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "h5py":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"needs h5py: pip install h5py"):
        benchmark(tmp_path / "x.h5", protocol="tvsum")
