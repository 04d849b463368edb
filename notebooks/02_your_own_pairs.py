# %% [markdown]
# # Your own pairs
#
# You will write a folder of images with a table of captions and a few mistakes in it, let mmjax
# find them before a run does, look at augmentation, and train a small CLIP on the pairs. It takes
# about a minute on two CPU cores, and some seconds more the first time, when the images are
# downloaded.

# %%
import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import mmjax
from demo.prepare import prepare
from mmjax.config import entry

plt.rcParams.update({"figure.dpi": 70, "axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## A folder with a table
#
# The pairs of this notebook are emoji of animals, plants, food and drink, written as files. Yours
# are anywhere: all that is needed is a table with a column of image files and a column of captions.
# The emoji are in a tar; a filter on the metadata of each pair chooses among them. mmjax logs how
# it reads every source that it opens, as it does here.

# %%
prepare(Path("../data/emoji"), styles=("google",))
FOLDER = Path("runs/own_pairs/data")
shutil.rmtree(FOLDER.parent, ignore_errors=True)
FOLDER.mkdir(parents=True)

wanted = "emoji_group in ('animals & nature', 'food & drink')"
emoji = mmjax.data.open_source({"path": "../data/emoji/google", "filter": wanted})
rows = []
for i in range(len(emoji)):
    for caption in emoji.captions(i):
        name = caption.replace(" ", "_") + ".png"
        Path(FOLDER, name).write_bytes(emoji[i].part("image"))
        rows.append((name, caption))
print(len(rows), "rows, such as", rows[0])

# %% [markdown]
# Real data is never clean. These rows have what such tables usually have: a file that was never
# downloaded, a download that broke off, a caption that is empty, and two rows of one image.

# %%
Path(FOLDER, "torn.png").write_bytes(emoji[0].part("image")[:1000])
rows += [
    ("missing.png", "a picture that was never downloaded"),
    ("torn.png", "a picture whose download broke off"),
    ("rose.png", ""),
    ("pizza.png", "a slice of pizza with salami"),
]
TABLE = FOLDER / "captions.csv"
with TABLE.open("w", newline="") as file:
    csv.writer(file).writerows([("image", "caption"), *rows])

# %% [markdown]
# ## Look before training
#
# `mmjax data inspect` reads and decodes the images, and accounts for each row: how it understood
# the table, what it leaves out and why, and what cannot be decoded. (In a terminal this is
# `mmjax data inspect runs/own_pairs/data/captions.csv`.)

# %%
command = [sys.executable, "-m", "mmjax", "data", "inspect", str(TABLE)]
print(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

# %% [markdown]
# The missing file and the empty caption are left out, each named. The two rows of the pizza are one
# record with two captions, of which training draws one each time, so that an image does not compete
# with itself. The torn file is found when it is decoded; a training run puts another record in its
# place and counts that, and stops if more than one in a hundred is like that
# (`config.data.max_bad`).
#
# ## Records of your program
#
# What is in memory need not be written to files. `from_records` takes pairs of an image and a text,
# or mappings, and returns a path that is used wherever a path of data is. An image is a uint8
# array, an image of Pillow, a file, or the content of one. The same account is kept of records.

# %%
ramp = np.linspace(0, 255, 48, dtype=np.uint8)
left_right, top_bottom = np.meshgrid(ramp, ramp)
flat = np.zeros_like(left_right)
records = [
    (np.stack([left_right, flat, flat], axis=2), "from black to red"),
    {"image": np.stack([flat, flat, top_bottom], axis=2), "caption": "blue grows downwards"},
    (Path(FOLDER, "pizza.png"), ["pizza", "a slice of pizza"]),
    (None, "an image that is not there"),
]
path = mmjax.data.from_records(records, "mine")
source = mmjax.data.open_source({"path": path})
print(path, "has", len(source), "records; left out:", dict(source.skipped))
for i in range(len(source)):
    print(i, source.captions(i))

# %% [markdown]
# ## The config, and what a model sees
#
# The recipe `pairs` is a small CLIP for a few thousand pairs. Its images have 64 pixels; here are
# 32, to be quick. Its tokenizer is trained on the captions.

# %%
config = mmjax.recipe("pairs", total_steps=150, batch_size=64)
config.update_from_flattened_dict({"model.image.size": 32, "optim.warmup_steps": 20})
config.data.train.pairs.path = str(TABLE)
config.data.workers = 0  # threads instead of processes: small images decode quickly
config.data.augment.rotate = 15.0
config.log.every = 15
for key, value in config.data.augment.items():
    print(f"{key:12} {value}")

# %% [markdown]
# Each time that an example is met it is augmented anew: a random crop and shape, turns, mirror
# images, colours. A source of one record shows what comes of one image. The batch is a function of
# the seed and the step alone: a run that is resumed sees the same.

# %%
alone = mmjax.data.from_records([FOLDER / "hamburger.png"], "alone")
one = {"one": entry("data.train", path=alone)}
inputs = mmjax.models.inputs(config.model)
reader = mmjax.data.modalities.build({"image": inputs["image"]}, data=config.data)
batches = mmjax.data.train_batches(
    mmjax.data.open_sources(one), config, reader.values(), rows=np.arange(16), start_step=0
)
batch = next(batches)
batches.close()

figure, axes = plt.subplots(2, 8, figsize=(8, 2.5))
for axis, image in zip(axes.flat, batch["image"], strict=True):
    axis.imshow(image, interpolation="nearest")
    axis.axis("off")
figure.suptitle(
    f"One image in sixteen epochs, {batch['image'].shape[1]} pixels as the model sees it"
)
figure.tight_layout()

# %% [markdown]
# ## Train
#
# The run says first what it found in the data, as `inspect` does.

# %%
RUN = "runs/own_pairs/run"
state = mmjax.train(config, RUN)

# %%
lines = [json.loads(line) for line in Path(RUN, "metrics.jsonl").read_text().splitlines()]
logged = [line for line in lines if "loss" in line]
last = logged[-1]
print(
    f"{last['data/examples']:,} examples, {last['data/substituted']} of them in place of torn.png"
)

figure, axis = plt.subplots(figsize=(7, 3))
axis.plot([x["step"] for x in logged], [x["loss"] for x in logged], "o-", color="#2a6f97")
axis.axhline(np.log(config.batch_size), color="grey", linestyle="--")
axis.annotate("guessing", (130, np.log(config.batch_size) + 0.06), color="grey")
axis.set(xlabel="step", ylabel="contrastive loss", title="Training loss on own pairs")
axis.set_ylim(0, 4.8)
figure.tight_layout()

# %% [markdown]
# ## Use the model
#
# `load` opens the run; `logits` takes files, too. A softmax over a row is the probability of each
# caption for that image.

# %%
clip = mmjax.load(RUN)
CAPTIONS = ["pizza", "hamburger", "strawberry", "octopus", "frog", "rose", "cactus", "hot beverage"]
files = [Path(FOLDER, caption.replace(" ", "_") + ".png") for caption in CAPTIONS]
logits = clip.logits(files, CAPTIONS)
probabilities = np.exp(logits - logits.max(1, keepdims=True))
probabilities /= probabilities.sum(1, keepdims=True)

figure, axis = plt.subplots(figsize=(7.5, 6))
axis.imshow(probabilities, cmap="Blues", vmin=0, vmax=1)
for (i, j), value in np.ndenumerate(probabilities):
    axis.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.5 else "k")
axis.set_xticks(range(len(CAPTIONS)), CAPTIONS, rotation=40, ha="right")
axis.set_yticks(range(len(CAPTIONS)), [file.name for file in files])
axis.set_title("Probability of each caption (column) for a file (row)", size=13)
axis.set_frame_on(False)
figure.tight_layout()

# %% [markdown]
# Some hundred pairs teach a model to know these images, not the world. How well it does on images
# that it has never seen is measured on pairs that were kept out of the training; the evaluation
# below is of the training pairs, and says only that the model has learned them.

# %%
pairs = mmjax.data.from_records([(FOLDER / name, text) for name, text in rows[:-4]], "learned")
found = mmjax.evaluate(RUN, task="retrieval", data=pairs, candidates="captions")["retrieval"]
for k in (1, 5):
    share = found[f"image_to_text/R@{k}"]
    print(f"image → caption R@{k}: {share:.1%} of {found['images']:.0f} training images")

# %% [markdown]
# ## From the terminal
#
# ```sh
# mmjax data inspect captions.csv --sheet=sheet.png
# mmjax train --config=pairs --config.data.train.pairs.path=captions.csv --workdir=runs/mine
# mmjax eval  --workdir=runs/mine --task=retrieval --data=held_out.csv
# ```
#
# ## What to read next
#
# - [Zero-shot evaluation](06_zero_shot_evaluation.ipynb): measuring on pairs that were held out.
# - [Weights in and out](03_weights_in_and_out.ipynb): start from published weights, which know the
#   world already.
# - Documentation: [Data](../docs/guide/data.md) lists all formats, mixtures, filters and remote
#   storage, [Pretraining](../docs/guide/pretraining.md) the config.
