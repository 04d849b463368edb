"""`mmjax.load` of models of videos: files, clips and arrays; image towers as a mean of frames."""

import functools

import numpy as np
import pytest
import tiny
from PIL import Image

import mmjax
from mmjax import cli, models
from mmjax.data import train_tokenizer
from mmjax.data.sampling import sample_frames
from mmjax.data.videos import Clip, open_video
from mmjax.errors import UserError
from mmjax.interop import registry

TEXTS = ["a red cat", "two dogs"]
T = 4


@functools.cache
def videos():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (n, 20, 32, 3), np.uint8) for n in (9, 3, 16)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny CLIPModel with its tokenizer."""
    config = tiny.config()
    words = train_tokenizer(TEXTS * 2, 560)
    config.model.text.vocab_size = words.vocab_size
    params = tiny.params(models.from_config(config.model))
    path = tmp_path_factory.mktemp("clip") / "folder"
    registry.export(path, "huggingface", config=config, params=params, tokenizer=words)
    return path


@pytest.fixture(scope="module")
def clip(folder):
    return mmjax.load(folder, frames=T)


@pytest.mark.parametrize("normalise", ["before", "after", "both"])
def test_an_image_tower_embeds_videos_by_the_mean_of_frames(folder, normalise):
    found = mmjax.load(folder, frames=T, normalise=normalise).embed_videos(videos())
    images = mmjax.load(folder)
    for video, row in zip(videos(), found, strict=True):
        shown = list(video[sample_frames(np.arange(len(video)), T)])
        each = images.outputs(("image/features",), images=shown)["image/features"]
        each = each.astype(np.float64)
        if normalise != "after":
            each /= np.linalg.norm(each, axis=1, keepdims=True)
        mean = each.mean(axis=0)
        if normalise != "before":
            mean /= np.linalg.norm(mean)
        np.testing.assert_allclose(row, mean, atol=2e-6)


def test_videos_are_read_from_files_bytes_clips_and_arrays(clip, tmp_path):
    path, pictures = tmp_path / "an animation.webp", [Image.fromarray(x) for x in videos()[2]]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=50, lossless=True)
    data = path.read_bytes()
    found = clip.embed_videos([path, str(path), data, Clip(str(path)), Clip(data, 0.2, 0.6)])
    np.testing.assert_array_equal(found[:4], np.repeat(found[:1], 4, axis=0))
    assert np.abs(found[4] - found[0]).max() > 1e-3
    frames = np.stack(open_video(data).read(range(16)))
    np.testing.assert_array_equal(frames, videos()[2])
    np.testing.assert_allclose(clip.embed_videos(frames), found[:1], atol=1e-6)  # one alone
    np.testing.assert_allclose(clip.embed_videos(path), found[:1], atol=1e-6)
    half = np.stack(open_video(Clip(data, 0.2, 0.6)).read(range(8)))
    np.testing.assert_allclose(clip.embed_videos(half), found[4:], atol=1e-6)
    with pytest.raises(UserError, match=r"video\[1\], .*gone\.mp4,? cannot be decoded"):
        clip.embed_videos([path, tmp_path / "gone.mp4"], batch_size=1)


def test_logits_and_outputs(clip, folder):
    logits = clip.logits(videos=videos(), texts=TEXTS)
    scale = float(np.exp(clip.params["logit_scale"]))
    cosine = clip.embed_videos(videos()) @ clip.embed_texts(TEXTS).T
    np.testing.assert_allclose(logits, scale * cosine, rtol=1e-5)
    frames = clip.outputs(("video/frames",), video=videos())["video/frames"]
    assert frames.shape == (3, T, 16)
    image = videos()[0][0]
    expected = mmjax.load(folder)
    np.testing.assert_allclose(clip.embed_images(image), expected.embed_images(image), atol=1e-6)
    np.testing.assert_allclose(
        clip.logits([image], TEXTS), expected.logits([image], TEXTS), atol=1e-5
    )
    np.testing.assert_allclose(
        clip.embed("video", videos(), batch_size=2), clip.embed_videos(videos()), atol=1e-6
    )
    np.testing.assert_array_equal(clip.embed("text", TEXTS), clip.embed_texts(TEXTS))
    assert "videos of 4 frames" in repr(clip)


def test_what_cannot_be_embedded_is_a_sentence(clip, folder):
    for given, message in (
        ([], "video is empty: give at least one"),
        ([videos()[0], b"nothing"], r"video\[1\] cannot be decoded"),
        ([None], r"video\[0\] is NoneType, no video: give a file or frames"),
        ([np.zeros((2, 8, 8), np.uint8)], r"video\[0\] is uint8 \[2, 8, 8\]: give frames as"),
    ):
        with pytest.raises(UserError, match=message):
            clip.embed_videos(given)
    images = mmjax.load(folder)
    with pytest.raises(UserError, match=r"no part 'video' .* or load\(…, frames=8\) for videos"):
        images.embed_videos(videos())
    with pytest.raises(UserError, match="no part 'audio'"):
        images.embed_audio(["a.wav"])
    with pytest.raises(UserError, match="give one of them"):
        clip.logits(texts=TEXTS)
    with pytest.raises(UserError, match=r"frames=0 must be an integer of 1 or more"):
        mmjax.load(folder, frames=0)


def test_other_towers_are_not_made_of_frames(tmp_path):
    config = tiny.config()
    config.model = models.zoo.config("tiny-bert")
    params = tiny.params(models.from_config(config.model))
    registry.export(tmp_path / "bert", "huggingface", config=config, params=params)
    with pytest.raises(UserError, match=r"frames are for models whose part 'image'"):
        mmjax.load(tmp_path / "bert", frames=T)


def test_clip_is_evaluated_on_videos_from_the_command_line(folder, capsys):
    cli.main(
        ["eval", f"--weights={folder}", "--frames=4", "--task=retrieval", "--data=generated:8",
         "--batch-size=8"]
    )  # fmt: skip
    assert "video_to_text/R@1" in capsys.readouterr().out
