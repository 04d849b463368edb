"""Key frames, summaries and search, on films whose shots are known."""

import dataclasses
import os
import sys

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from PIL import Image

import mmjax
from mmjax import models
from mmjax.cli import main
from mmjax.data.videos import open_video
from mmjax.datatools.cutting import write_cut
from mmjax.errors import UserError
from mmjax.models import zoo
from mmjax.parallel.mesh import make_mesh
from mmjax.pretrained import Pretrained
from mmjax.schema import entry
from mmjax.video import searching
from mmjax.video.features import Colours, OfModel
from mmjax.video.shots import cut_into_parts, shot_starts
from mmjax.video.summarizing import Span

av = pytest.importorskip("av")
pytest.importorskip("scenedetect")
import films  # noqa: E402 - it needs PyAV
import small_run  # noqa: E402
import tiny  # noqa: E402

COLOURS = [(220, 30, 30), (30, 200, 40), (30, 60, 230), (230, 210, 20)]


def shots(*plan, fps=25, noise=6):
    """Frames of shots: (number of a colour, frames) each, with noise that moves."""
    rng = np.random.default_rng(0)
    frames = []
    for colour, count in plan:
        still = np.full((films.HEIGHT, films.WIDTH, 3), COLOURS[colour], int)
        frames += [still + rng.integers(0, noise, still.shape) for _ in range(count)]
    return np.clip(frames, 0, 255).astype(np.uint8)


PLAN = [(0, 50), (1, 30), (0, 40), (2, 60), (3, 20)]  # 8 seconds
STARTS = [0, 50, 80, 120, 180]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("films") / "a [film].mp4"
    path.write_bytes(films.film(shots(*PLAN), sound=True))
    return path


@pytest.fixture(scope="module")
def model():
    config, clip, params = small_run.run()
    return Pretrained("it", config, clip, placed(params), small_run.tokenizer)


def placed(params):
    """On the first device, as `mmjax.load` does without a mesh."""
    mesh = make_mesh(devices=jax.devices()[:1])
    return jax.device_put(params, NamedSharding(mesh, PartitionSpec()))


def colour_of(frame):
    mean = frame.reshape(-1, 3).mean(axis=0)
    return int(np.argmin([np.abs(mean - colour).sum() for colour in COLOURS]))


def test_shots_are_those_that_pyscenedetect_finds_itself(film):
    from scenedetect import ContentDetector, detect

    theirs = [start.frame_num for start, _ in detect(str(film), ContentDetector())]
    assert shot_starts(open_video(str(film))) == theirs == STARTS


def test_parts_cover_every_frame_once_and_none_is_too_long():
    times = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.06, 500))
    starts = [0, 3, 120, 121, 400]
    parts = cut_into_parts(times, starts, 1.5)
    assert [n for part in parts for n in range(part.first, part.last)] == list(range(500))
    assert [part.end for part in parts[:-1]] == [part.start for part in parts[1:]]
    assert max(part.seconds for part in parts) <= 1.5 + 0.06
    assert [parts[[p.shot for p in parts].index(n)].first for n in range(5)] == starts
    (one,) = cut_into_parts(np.array([0.0]), [0], 2.0)
    assert (one.first, one.last, one.middle) == (0, 1, 0)
    slow = cut_into_parts(np.array([0.0, 10.0, 20.0]), [0], 2.0)  # a slide every ten seconds
    assert [(part.first, part.last) for part in slow] == [(0, 1), (1, 2), (2, 3)]


def test_key_frames_are_one_of_each_colour_and_written_by_their_time(film, tmp_path, capsys):
    folder = tmp_path / "frames"
    main(["video", "keyframes", str(film), "--count=4", f"--output={folder}"])
    printed = capsys.readouterr().out
    frames = mmjax.video.keyframes(film, count=4)
    assert sorted(colour_of(frame.image) for frame in frames) == [0, 1, 2, 3]
    assert [frame.second for frame in frames] == sorted(frame.second for frame in frames)
    assert sum(frame.seconds for frame in frames) == pytest.approx(8, abs=0.01)
    assert {path.name for path in folder.iterdir()} == {
        "sheet.png", *(frame.file for frame in frames)
    }  # fmt: skip
    video = open_video(str(film))
    for frame in frames:
        assert frame.start <= frame.second < frame.end
        (number,) = np.flatnonzero(video.times == frame.second)
        np.testing.assert_array_equal(video.read([number])[0], frame.image)
        stored = np.asarray(Image.open(folder / frame.file), float)
        assert np.abs(stored - frame.image).mean() < 3
        assert frame.file in printed
    sheet = np.asarray(Image.open(folder / "sheet.png"))
    for colour in COLOURS:
        assert (np.abs(sheet.astype(int) - colour).sum(axis=2) < 40).sum() > 1000
    # One frame stands for the colour that lasts longest.
    (one,) = mmjax.video.keyframes(film, count=1)
    assert colour_of(one.image) == 0


def test_a_model_compares_frames_and_a_query_says_which_count(film, model):
    video = open_video(str(film))
    found = OfModel(model, None).of_frames(video, [10, 60, 199])
    expected = model.embed_images([frame for frame in video.read([10, 60, 199])])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    query = OfModel(model, None).of_text("red cat")
    np.testing.assert_allclose(query.embed, model.embed_texts("red cat")[0], atol=1e-6)
    logits = model.logits(images=video.read([10, 60, 199]), texts="red cat")[:, 0].astype(float)
    softmax = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(query.shares(found), softmax, rtol=1e-3)
    frames = mmjax.video.keyframes(film, count=3, query="red cat", model=model)
    texts = model.embed_texts("red cat")[0]
    cosines = model.embed_images([frame.image for frame in frames]) @ texts
    np.testing.assert_allclose([frame.cosine for frame in frames], cosines, atol=1e-4)


def test_a_query_chooses_what_the_text_describes(film, monkeypatch):
    """With a model whose texts are colours, the first key frame has the colour asked for."""

    class OfColours(Colours):
        def of_text(self, query):
            from mmjax.video.features import Query

            number = ["red", "green", "blue", "yellow"].index(query)
            frame = shots((number, 1))
            return Query(self.of_frames(open_video(frame), [0])[0], 100.0)

    from mmjax.video import keyframing, summarizing

    for module in (keyframing, summarizing):
        monkeypatch.setattr(module, "open_features", lambda *_: OfColours())
    for number, name in enumerate(["red", "green", "blue", "yellow"]):
        (frame,) = mmjax.video.keyframes(film, count=1, query=name)
        assert colour_of(frame.image) == number
        (span,) = mmjax.video.summarize(film, seconds=1.0, query=name).spans
        assert colour_of(open_video(str(film)).read([span.first])[0]) == number


@pytest.mark.parametrize("part", ["image", "video"])
def test_the_tower_of_videos_sees_frames_too(film, part):
    config = ConfigDict({"model": zoo.config("tiny"), "data": small_run.run()[0].data})
    frame = {key: value for key, value in config.model.image.items() if key != "kind"}
    del config.model.image
    config.model[part] = entry(models.parts.KINDS["video_vit"].keys)
    config.model[part].update({**frame, "kind": "video_vit", "frames": 4, "unroll": False})
    clip = models.from_config(config.model)
    clip_of_videos = Pretrained("it", config, clip, placed(tiny.params(clip)), None)
    found = OfModel(clip_of_videos, None).of_frames(open_video(str(film)), [10, 60])
    expected = clip_of_videos.embed_videos([np.stack(open_video(str(film)).read([10]))])
    np.testing.assert_allclose(found[:1], expected, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    with pytest.raises(UserError, match="it holds no tokenizer"):
        mmjax.video.keyframes(film, query="red", model=clip_of_videos)


def test_a_summary_is_cut_to_the_frame(film, tmp_path, capsys):
    folder = tmp_path / "summary"
    main(["video", "summarize", str(film), "--seconds=4", f"--output={folder}"])
    printed = capsys.readouterr().out
    summary = mmjax.video.summarize(film, seconds=4)
    assert 2.5 < summary.seconds <= 4  # more of the same colours adds nothing
    assert f"{summary.seconds:.2f} seconds in {len(summary.spans)} spans, with sound" in printed
    whole, cut = open_video(str(film)), open_video(str(folder / "summary.mp4"))
    numbers = [n for span in summary.spans for n in range(span.first, span.last)]
    assert len(cut.times) == len(numbers) == round(25 * summary.seconds)
    np.testing.assert_allclose(np.diff(cut.times), 0.04, atol=1e-4)
    assert {colour_of(frame) for frame in whole.each(numbers)} == {0, 1, 2, 3}
    for ours, theirs in zip(cut.each(range(len(numbers))), whole.each(numbers), strict=True):
        assert np.abs(ours.astype(int) - theirs).mean() < 5
    with av.open(str(folder / "summary.mp4")) as container:
        for stream in container.streams:
            seconds = float(stream.duration * stream.time_base)
            assert seconds == pytest.approx(summary.seconds, abs=0.05)
    assert (np.asarray(Image.open(folder / "sheet.png")) != 255).mean() > 0.05
    stands = sum(span.seconds for span in summary.spans)
    assert stands == pytest.approx(8, abs=0.01)


def heard(path):
    """float32 [samples] of the first channel, from the beginning of the file."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def test_sound_is_cut_at_the_sample_and_is_silent_where_there_is_none(film, tmp_path):
    spans = [Span(0.2, 0.8, 5, 20, 0, 0), Span(4.0, 4.4, 100, 110, 0, 0)]
    assert write_cut(film, open_video(str(film)), spans, tmp_path / "cut.mp4")
    whole, cut = heard(film), heard(tmp_path / "cut.mp4")  # the film has a second of sound, 8 kHz
    assert len(cut) == pytest.approx(8000, abs=1100)  # AAC comes in frames of 1,024
    best = {
        lag: np.corrcoef(whole[1600 + lag : 6000 + lag], cut[:4400])[0, 1] for lag in range(-9, 10)
    }
    assert max(best, key=best.get) == 0
    assert best[0] > 0.99
    assert np.abs(cut[4800 + 500 : 8000 - 100]).max() < 0.02 < np.abs(cut[:4400]).max()


def test_uneven_times_odd_sizes_and_named_colours_are_kept(tmp_path):
    times = np.cumsum([0, *([40, 40, 120, 7] * 12)])[:45].tolist()
    path = tmp_path / "uneven.mkv"
    path.write_bytes(films.film(shots((0, 20), (1, 25)), container="mkv", times=times))
    video = open_video(str(path))
    span = Span(float(video.times[3]), float(video.times[30]), 3, 30, 0, 0)
    assert not write_cut(path, video, [span], tmp_path / "cut.mp4")
    cut = open_video(str(tmp_path / "cut.mp4"))
    np.testing.assert_allclose(np.diff(cut.times), np.diff(video.times[3:30]), atol=1e-4)
    odd = open_video(shots((0, 3), (2, 3))[:, :47, :63])
    span = Span(0.0, 6.0, 0, 6, 0, 0)
    gif = tmp_path / "odd.gif"
    gif.write_bytes(films.animation(shots((0, 3), (2, 3))[:, :47, :63], "GIF"))
    assert not write_cut(gif, odd, [span], tmp_path / "even.mp4")
    even = open_video(str(tmp_path / "even.mp4"))
    assert (len(even.times), even.shape) == (6, (48, 64))
    for tagged in (False, True):
        named = tmp_path / f"named{tagged}.mp4"
        options = {"colorspace": "bt709"} if tagged else {}
        named.write_bytes(films.film(shots((0, 30), noise=1), options=options))
        write_cut(named, open_video(str(named)), [Span(0.0, 1.2, 0, 30, 0, 0)], tmp_path / "n.mp4")
        with av.open(str(tmp_path / "n.mp4")) as container:
            assert (container.streams.video[0].codec_context.colorspace == 1) == tagged
        pairs = [open_video(str(path)).read([20])[0] for path in (named, tmp_path / "n.mp4")]
        assert np.abs(np.subtract(*pairs, dtype=int)).max() < 6


def test_a_search_gives_file_and_second_and_the_next_one_reads_no_video(
    film, model, tmp_path, monkeypatch
):
    folder = tmp_path / "videos"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.mp4").write_bytes(film.read_bytes())
    (folder / "deep" / "b.mkv").write_bytes(films.film(shots((3, 40), (1, 40)), container="mkv"))
    (folder / "broken.mp4").write_bytes(b"no film")
    (folder / "notes.txt").write_text("no video")
    hits = mmjax.video.search(folder, query="red cat", model=model, top=4)
    # Brute force: every shot's candidates, each by itself.
    text, expected = model.embed_texts("red cat")[0], []
    for path in (folder / "a.mp4", folder / "deep" / "b.mkv"):
        video = open_video(str(path))
        parts = cut_into_parts(video.times, shot_starts(video), 2.0)
        cosines = model.embed_images(video.read([part.middle for part in parts])) @ text
        for shot in {part.shot for part in parts}:
            of_shot = [(c, p) for c, p in zip(cosines, parts, strict=True) if p.shot == shot]
            best, part = max(of_shot)
            expected.append((best, str(path), float(video.times[part.middle])))
    expected.sort(reverse=True)
    assert len(expected) == 7
    np.testing.assert_allclose(
        [hit.cosine for hit in hits], [e[0] for e in expected[:4]], atol=1e-5
    )
    assert {(hit.file, hit.second) for hit in hits} == {e[1:] for e in expected[:4]}
    assert all(hit.start <= hit.second < hit.end for hit in hits)

    def opened(path, *_):
        raise AssertionError(f"{path} is read again")

    with monkeypatch.context() as patched:
        patched.setattr(searching, "read_parts", opened)
        assert mmjax.video.search(folder, query="red cat", model=model, top=4) == hits
        assert len(mmjax.video.search(folder, query="blue sea", model=model, top=99)) == 7
        os.utime(folder / "a.mp4", ns=(1, 1))  # it may be another one
        with pytest.raises(AssertionError, match=r"a\.mp4 is read again"):
            mmjax.video.search(folder, query="red cat", model=model)
    other = dataclasses.replace(
        model, params={**model.params, "logit_scale": placed(np.asarray(1.5, np.float32))}
    )
    kept = tmp_path / "kept"
    assert mmjax.video.search(folder, query="red cat", model=other, top=4, index=kept) == hits
    assert len(list(kept.rglob("*.npz"))) == 2
    mmjax.video.search(folder, query="red cat", model=model, top=1)
    assert len(list((folder / ".mmjax").rglob("*.npz"))) == 2
    mmjax.video.search(folder, query="red cat", model=other, top=1)
    assert len(list((folder / ".mmjax").rglob("*.npz"))) == 4


def test_mistakes_have_their_sentence(film, model, tmp_path, capsys):
    silent = tmp_path / "sound.mp4"
    with av.open(str(silent), "w") as out:
        stream = out.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    (tmp_path / "broken.mp4").write_bytes(film.read_bytes()[:900])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("mine")
    for call, message in (
        (["keyframes", str(silent), f"--output={tmp_path}/a"], "has no video stream, but audio"),
        (["keyframes", f"{tmp_path}/no.mp4", f"--output={tmp_path}/a"], "no.mp4 is not there"),
        (["keyframes", f"{tmp_path}/broken.mp4", f"--output={tmp_path}/a"], "cannot be decoded"),
        (["keyframes", str(film), f"--output={tmp_path}/full"], "is not empty; name another"),
        (["keyframes", str(film), "--query=x", f"--output={tmp_path}/b"], "give --model=SOURCE"),
        (["summarize", str(film), f"--output={tmp_path}/c"], "lasts 8.0 seconds: a summary of 30"),
        (["search", str(tmp_path / "full"), "--query=x", "--model=y"], "holds no videos"),
        (["search", str(film), "--query=x", "--model=y"], "is not a folder"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["video", *call])
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert message in said
        assert "Traceback" not in said
    for call, message in (
        (lambda: mmjax.video.keyframes(film, count=0), "count=0 must be 1 or more"),
        (lambda: mmjax.video.summarize(film, seconds=0), "seconds=0 must be more than 0"),
        (lambda: mmjax.video.keyframes(film, query=" ", model=model), "the query is empty"),
        (lambda: mmjax.video.search(tmp_path, query="x", model=model, top=0), "top=0 must be"),
    ):
        with pytest.raises(UserError, match=message):
            call()
    only = tmp_path / "only"
    only.mkdir()
    (only / "broken.mp4").write_bytes(b"no film")
    with pytest.raises(UserError, match="none of its 1 videos can be read"):
        mmjax.video.search(only, query="red cat", model=model)


def test_a_missing_extra_has_its_sentence(film, monkeypatch):
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(UserError, match=r"needs PySceneDetect: pip install 'mmjax\[video\]'"):
        mmjax.video.keyframes(film)
