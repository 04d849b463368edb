# %% [markdown]
# # Quickstart
#
# You will train a small CLIP model from random parameters on two sets of emoji, and search with
# words in a third set, drawn in a style that the model has never seen. It takes about a minute and
# a half on two CPU cores, and some seconds more the first time, when the pictures are downloaded.
#
# CLIP consists of two networks. One turns an image into a vector, the *embedding*, the other does
# the same with a text. Training pulls the embeddings of an image and its own text together, and
# pushes those of an image and all other texts of the batch apart. Nobody labels anything: pairs of
# images and texts are enough.

# %%
import io
import json
import logging
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import mmjax
from demo.prepare import prepare
from mmjax.config import entry

plt.rcParams.update({"figure.dpi": 70, "axes.spines.top": False, "axes.spines.right": False})
logging.getLogger("mmjax.data").setLevel(logging.ERROR)  # what it says of data: next notebook

# %% [markdown]
# ## The data
#
# `prepare` downloads packages of emoji and writes each style as a tar of pictures and captions, as
# [img2dataset](https://github.com/rom1504/img2dataset) does. Files that are there are reused.

# %%
DATA = Path("../data/emoji")
prepare(DATA, styles=("google", "fluent", "twitter"))

# %% [markdown]
# `open_source` reads any data set that mmjax can train on. A record has an image, still encoded,
# and captions. Here are the same eight emoji in the three styles.


# %%
def picture(record):
    """The image of a record on a white background."""
    image = Image.open(io.BytesIO(record.part("image"))).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def read(style):
    """Caption → picture."""
    source = mmjax.data.open_source({"path": str(DATA / style)})
    return {source.captions(i)[0]: picture(source[i]) for i in range(len(source))}


styles = {style: read(style) for style in ("google", "fluent", "twitter")}
NAMES = ["red apple", "pizza", "rocket", "octopus", "cactus", "sailboat", "robot", "guitar"]

figure, axes = plt.subplots(3, len(NAMES), figsize=(7.2, 2.9))
for row, (style, pictures) in zip(axes, styles.items(), strict=True):
    for axis, name in zip(row, NAMES, strict=True):
        axis.imshow(pictures[name])
        axis.set(xticks=[], yticks=[], frame_on=False)
    row[0].set_ylabel(style, size=11)
for axis, name in zip(axes[0], NAMES, strict=True):
    axis.set_title(name, size=10)
figure.suptitle("Train on the first two rows, test on the third", size=12)
figure.tight_layout()

# %% [markdown]
# ## The config
#
# A *recipe* is a complete config with every setting of a run. `demo` is the one behind `make demo`,
# which trains for five minutes on three styles. Here are fewer steps, a smaller image tower, two
# styles and weaker augmentation. The recipe's captions come from the field `captions` of each
# pair's JSON: mostly the name of an emoji, at times with its tags.

# %%
config = mmjax.recipe("demo", total_steps=150, **{"model.image.depth": 2, "log.every": 15})
with config.unlocked():  # entries may be added and removed in here
    config.data.train = {
        style: entry("data.train", path=str(DATA / style), caption="json:captions")
        for style in ("google", "fluent")
    }
    config.evals = {}
config.data.augment.update(crop_scale=(0.7, 1.2), rotate=8.0, hue=0.05, grayscale=0.05)
print(f"{config.model.name}: images of {config.model.image.size} pixels, {config.batch_size} pairs")
print("a batch, optimizer:", config.optim.name, "with a learning rate of", config.optim.lr)

# %% [markdown]
# ## Training
#
# `train` needs the config and a folder for the run. A folder that has checkpoints is continued, so
# we remove that of an earlier execution. The two lines after the first say how many captions are
# alike: two pictures with the same caption in one batch count as wrong for each other.

# %%
RUN = "runs/quickstart"
shutil.rmtree(RUN, ignore_errors=True)
state = mmjax.train(config, RUN)

# %% [markdown]
# Everything that was logged is in `metrics.jsonl`, one JSON object a line. A model that guesses
# among the 256 texts of a batch has a loss of $\log 256 \approx 5.5$.

# %%
lines = [json.loads(line) for line in Path(RUN, "metrics.jsonl").read_text().splitlines()]
logged = [line for line in lines if "loss" in line]

figure, axis = plt.subplots(figsize=(7, 3.2))
axis.plot([x["step"] for x in logged], [x["loss"] for x in logged], "o-", color="#2a6f97")
axis.axhline(np.log(config.batch_size), color="grey", linestyle="--")
axis.annotate("guessing", (130, np.log(config.batch_size) + 0.08), color="grey")
axis.set(xlabel="step", ylabel="contrastive loss", ylim=(2.5, 6), title="Training loss")
figure.tight_layout()

# %% [markdown]
# ## Search with words
#
# `load` opens the run as a model with its tokenizer and preprocessing. It embeds the pictures of
# the unseen style once. To search, it embeds the words and sorts the pictures by the cosine of the
# two embeddings; both have unit length, so this is a matrix product. The words need not be the name
# of an emoji.

# %%
clip = mmjax.load(RUN)
print(clip)

names, pictures = list(styles["twitter"]), list(styles["twitter"].values())
image_embed = clip.embed_images(pictures, batch_size=256)
QUERIES = ["a smiling face", "clock", "red heart", "flag", "plant", "flower"]
scores = clip.embed_texts(QUERIES) @ image_embed.T
print(image_embed.shape, "image embeddings,", scores.shape, "cosines")

figure, axes = plt.subplots(len(QUERIES), 7, figsize=(5.4, 4.3))
for row, query, score in zip(axes, QUERIES, scores, strict=True):
    for axis, index in zip(row, np.argsort(-score)[: len(row)], strict=True):
        axis.imshow(pictures[index])
        axis.set(xticks=[], yticks=[], frame_on=False)
    row[0].set_ylabel(query, rotation=0, ha="right", va="center", size=11)
figure.suptitle(f"The closest of {len(pictures):,} pictures of the unseen style", size=12)
figure.tight_layout(h_pad=0.2, w_pad=0.2)

# %% [markdown]
# After one minute of training, colours and shapes are known better than meanings: clocks and hearts
# are found, plants and flowers are not.
#
# The other way round, `logits` compares pictures with texts: cosines times the learned scale. The
# softmax over a row gives the probability of each text for that picture. A perfect model has ones
# on the diagonal.

# %%
shown = [styles["twitter"][name] for name in NAMES]
logits = clip.logits(shown, NAMES)
probabilities = np.exp(logits - logits.max(1, keepdims=True))
probabilities /= probabilities.sum(1, keepdims=True)

figure, axis = plt.subplots(figsize=(6.4, 5.2))
axis.imshow(probabilities, cmap="Blues", vmin=0, vmax=1)
for (i, j), value in np.ndenumerate(probabilities):
    axis.text(
        j,
        i,
        f"{value:.2f}",
        ha="center",
        va="center",
        size=9,
        color="white" if value > 0.5 else "k",
    )
axis.set_xticks(range(len(NAMES)), NAMES, rotation=40, ha="right")
axis.set_yticks([])
for i, image in enumerate(shown):
    axis.imshow(image, extent=(-1.5, -0.6, i + 0.45, i - 0.45))
axis.set(xlim=(-1.6, len(NAMES) - 0.5), ylim=(len(NAMES) - 0.5, -0.5), frame_on=False)
axis.set_title("Probability of each text (column) for a picture (row)", size=13)
figure.tight_layout()

# %% [markdown]
# ## How good is it?
#
# `R@k` (recall at k) is the share of pictures whose own name is among the k names that are closest,
# of all the names; and the same for names and pictures. `evaluate` computes both. With
# `candidates="captions"`, pictures that have the same name count as one candidate.

# %%
results = mmjax.evaluate(RUN, task="retrieval", data=str(DATA / "twitter"), candidates="captions")
found = results["retrieval"]
count = found["texts"]
for key in ("image_to_text/R@1", "image_to_text/R@10", "text_to_image/R@10"):
    print(f"{key:20} {found[key]:6.1%}  of {count:,.0f} names")

# %%
ks = (1, 5, 10)
bars = {
    "picture → name": [found[f"image_to_text/R@{k}"] for k in ks],
    "name → picture": [found[f"text_to_image/R@{k}"] for k in ks],
    "guessing": [k / count for k in ks],
}
figure, axis = plt.subplots(figsize=(7, 3.2))
for number, (label, values) in enumerate(bars.items()):
    color = ("#2a6f97", "#89c2d9", "grey")[number]
    drawn = axis.bar(np.arange(3) + 0.27 * (number - 1), values, 0.25, label=label, color=color)
    axis.bar_label(drawn, [f"{value:.1%}" for value in values], size=10)
axis.set_xticks(range(3), [f"R@{k}" for k in ks])
axis.set(ylabel="share found", title=f"Retrieval among {count:,.0f} names, unseen style")
axis.yaxis.set_major_formatter("{x:.0%}")
axis.margins(y=0.12)
axis.legend(frameon=False)
figure.tight_layout()

# %% [markdown]
# Two pictures of each emoji and a minute of training are little, but enough to transfer to another
# artist's drawings. `make demo` trains six times as long on a larger model and three styles; the
# README has its numbers.
#
# ## The same from the terminal
#
# Each function above is a command of the same name, and each key of the config is an option. In the
# folder of the repository, with the three styles of the recipe:
#
# ```sh
# python -m demo.prepare
# mmjax train  --config=demo --config.total_steps=150 --config.model.image.depth=2 \
#              --workdir=runs/quickstart
# mmjax eval   --workdir=runs/quickstart --task=retrieval --data=data/emoji/twitter \
#              --candidates=captions
# mmjax report --workdir=runs/quickstart
# mmjax export --workdir=runs/quickstart --format=huggingface \
#              --output=runs/quickstart/huggingface
# ```
#
# `train` again resumes where it was interrupted, `report` writes one HTML page, and the exported
# folder loads in PyTorch as transformers' `CLIPModel`.
#
# ## What to read next
#
# - [Your own pairs](02_your_own_pairs.ipynb): the same with a folder of your files.
# - [Weights in and out](03_weights_in_and_out.ipynb): to and from other libraries.
# - Documentation: [Pretraining](../docs/guide/pretraining.md) has recipes, configs and schedules,
#   [Evaluation](../docs/guide/evaluation.md) all tasks.
