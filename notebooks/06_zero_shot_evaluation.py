# %% [markdown]
# # Zero-shot evaluation
#
# You will train a small CLIP on two drawing styles of emoji and measure it on a third that it has
# never seen: retrieval, classification from prompts, confusion, what a change of prompts does, and
# whether its probabilities mean anything. It takes one to two minutes on two CPU cores.

# %%
import io
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
logging.getLogger("mmjax.data").setLevel(logging.ERROR)  # what it finds in the data
EMOJI = Path("../data/emoji")
counts = prepare(EMOJI, styles=("google", "fluent", "twitter"))
print(counts)

# %% [markdown]
# Each style is a folder of tar shards with one image, its captions and a class number for each
# emoji. `open_source` reads any data that mmjax can train on. Here are the same emoji in the three
# styles; the last one is held out.

# %%
styles = {name: mmjax.data.open_source({"path": str(EMOJI / name)}) for name in counts}
named = {
    name: {source.captions(i)[0]: i for i in range(len(source))} for name, source in styles.items()
}
shown = ("red heart", "dog face", "pizza", "airplane", "guitar", "clown face")


def picture(style, name):
    stored = styles[style][named[style][name]].part("image")
    image = Image.open(io.BytesIO(stored)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


figure, axes = plt.subplots(3, len(shown), figsize=(5, 2.6))
for row, style in zip(axes, styles, strict=True):
    for axis, name in zip(row, shown, strict=True):
        axis.imshow(picture(style, name))
        axis.set(xticks=[], yticks=[], frame_on=False)
    row[0].set_ylabel(style)
for axis, name in zip(axes[0], shown, strict=True):
    axis.set_title(name, fontsize=9)
plt.show()

# %% [markdown]
# ## Train
#
# The recipe `demo` is the one behind `make demo`. Here it has a smaller image tower, two styles of
# emoji, weaker augmentation and a sixth of the steps.

# %%
WORKDIR = Path("runs/zero_shot")
shutil.rmtree(WORKDIR, ignore_errors=True)

config = mmjax.recipe("demo", total_steps=150, **{"model.image.depth": 2, "log.every": 50})
with config.unlocked():  # to remove and add sources and evaluators
    config.data.train = {
        style: entry("data.train", path=str(EMOJI / style), caption="json:captions")
        for style in ("google", "fluent")
    }
    config.evals = {}
config.data.augment.update(crop_scale=(0.7, 1.2), rotate=8.0, hue=0.05, grayscale=0.05)
state = mmjax.train(config, WORKDIR)

# %% [markdown]
# ## Evaluate
#
# `mmjax.evaluate` takes a task, data, and the keys of that task. Retrieval: for each picture,
# which of all labels is closest, and the reverse. Every share has a 95 % bootstrap interval, which
# says how far it would move with another sample of pictures; it does not cover another training
# run.

# %%
HELD_OUT = str(EMOJI / "twitter")
retrieval = mmjax.evaluate(
    WORKDIR, task="retrieval", data=HELD_OUT, candidates=str(EMOJI / "labels.txt")
)["retrieval"]

labels = int(retrieval["texts"])
print(f"{retrieval['images']:,.0f} pictures, {labels:,} labels; chance of R@1 is {1 / labels:.2%}")
for direction in ("image_to_text", "text_to_image"):
    for k in ("R@1", "R@5", "R@10"):
        share = retrieval[f"{direction}/{k}"]
        print(f"{direction} {k:>5}: {share:6.1%}   [{share.low:.1%}, {share.high:.1%}]")

# %% [markdown]
# Zero-shot classification: the names of the classes, put into prompts, are embedded as texts, and
# each picture is given the class of the closest one. The classes here are the ten groups of emoji.
# The model was never trained on them as classes, but a part of its captions names the group.

# %%
classification = mmjax.evaluate(
    WORKDIR,
    task="classification",
    data=HELD_OUT,
    label="label",
    classes=str(EMOJI / "groups.txt"),
)["classification"]
for name, value in classification.items():
    print(f"{name}: {value:.3f}" if value <= 1 else f"{name}: {value:,.0f}")

# %% [markdown]
# ## The same in steps
#
# `mmjax.load` gives the model with its tokenizer and preprocessing, and `mmjax.evaluation` the
# functions that the evaluator is made of. They work on arrays, so embeddings from any library will
# do. The accuracy is the same number as above. (With `labels=True` every picture counts; without,
# as in retrieval, pictures that are equal to the pixel become one record with several captions.)

# %%
from mmjax.evaluation import accuracy, classifier, prompts

clip = mmjax.load(WORKDIR)
groups = (EMOJI / "groups.txt").read_text().splitlines()

held_out = mmjax.data.open_source({"path": HELD_OUT, "label": "label"}, labels=True)
records = [held_out[i] for i in range(len(held_out))]
truth = np.array([record.label for record in records])
images = clip.embed_images([Image.open(io.BytesIO(r.part("image"))) for r in records], 256)


def of_templates(templates, names=groups):
    """A classifier, float32 [classes, D], from prompts."""
    texts = clip.embed_texts(prompts(names, templates), 256)
    return classifier(texts.reshape(len(names), len(templates), -1))


plain = of_templates(["{}"])
found = accuracy(images, plain, truth)
print(f"top-1 {found['top1']:.4f}, as evaluated above: {classification['top1']:.4f}")

# %% [markdown]
# ## Which classes are confused?
#
# Each row is a true class, and its colours say which classes the model gave instead.

# %%
answer = (images @ plain.T).argmax(axis=1)
confusion = np.zeros((len(groups), len(groups)))
np.add.at(confusion, (truth, answer), 1)
shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
sizes = confusion.sum(axis=1).astype(int)

figure, axis = plt.subplots(figsize=(6.6, 5.4))
axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
for row in range(len(groups)):
    for column in range(len(groups)):
        if shares[row, column] >= 0.01:
            color = "white" if shares[row, column] > 0.5 else "black"
            text = f"{shares[row, column]:.0%}"
            axis.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
axis.set_xticks(range(len(groups)), groups, rotation=40, ha="right")
axis.set_yticks(range(len(groups)), [f"{g} ({n})" for g, n in zip(groups, sizes, strict=True)])
axis.set(xlabel="answer", ylabel="true class (pictures)", title="Confusion on the held-out style")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Another prompt, another score
#
# A score belongs to a model and its prompts. The captions of the training data are names, names
# with tags, or "subgroup, group", so `other, {}` looks like some of them, and none begins with "a
# photo of". The last two rows use no template: each class is the mean of the names of some of its
# members.

# %%
rng = np.random.default_rng(0)
captions = [record.captions[0] for record in records]


def of_members(count):
    """A classifier: each class is the mean of `count` names of its members."""
    chosen = [rng.permutation(np.flatnonzero(truth == g))[:count] for g in range(len(groups))]
    rows = [clip.embed_texts([captions[i] for i in some])[None] for some in chosen]
    return np.concatenate([classifier(row) for row in rows])


classifiers = {
    "{}": plain,
    "{}.": of_templates(["{}."]),
    "a photo of {}": of_templates(["a photo of {}"]),
    "an emoji of {}": of_templates(["an emoji of {}"]),
    "other, {}": of_templates(["other, {}"]),
    "the last four together": of_templates(["{}.", "a photo of {}", "an emoji of {}", "other, {}"]),
    "3 names of members": of_members(3),
    "20 names of members": of_members(20),
}
scores = {name: accuracy(images, weights, truth)["top1"] for name, weights in classifiers.items()}

figure, axis = plt.subplots(figsize=(7, 3.6))
values = list(scores.values())
spread = [[v - v.low for v in values], [v.high - v for v in values]]
axis.barh(list(scores), values, xerr=spread, color="tab:blue", ecolor="black", capsize=2)
most = sizes.max() / sizes.sum()
axis.axvline(most, color="grey", linestyle="--", label="always the largest class")
axis.set(xlabel="top-1 accuracy (95 % interval)", title="The same model, other prompts")
axis.invert_yaxis()
axis.set_xlim(0, 0.75)
axis.legend(loc="upper right")
plt.show()
for name, value in scores.items():
    print(f"{value:6.1%}   {name}")

# %% [markdown]
# A full stop behind the name costs several points. Where intervals overlap, no prompt is shown to
# be better. So compare models only with the same prompts: `mmjax eval --task=imagenet` uses
# OpenAI's 80 templates unless told otherwise.
#
# Accuracy over all pictures is mostly the accuracy of the large classes; per class it looks
# different. `mean_per_class_recall` is the mean of these bars. Beside the plain names stand the
# best prompts of the last figure; they were chosen on these very pictures, so their score is a
# little better than it would be on others.

# %%
best = max(scores, key=lambda name: scores[name])
order = np.argsort(-sizes)
figure, axis = plt.subplots(figsize=(8, 3.4))
for shift, name in ((-0.2, "{}"), (0.2, best)):
    hits = (images @ classifiers[name].T).argmax(axis=1) == truth
    recall = np.array([hits[truth == g].mean() if sizes[g] else 0.0 for g in range(len(groups))])
    present = recall[sizes > 0].mean()
    label = f"{name}: mean {present:.1%}"
    axis.bar(np.arange(len(groups)) + shift, recall[order], width=0.4, label=label)
names = [f"{groups[g]} ({sizes[g]})" for g in order]
axis.set_xticks(range(len(groups)), names, rotation=40, ha="right")
axis.set(ylabel="recall", title="Recall of each class", ylim=(0, 1))
axis.legend()
plt.show()

# %% [markdown]
# ## Is a probability a probability?
#
# `softmax(scale · cosine)` looks like a distribution over classes. If it were calibrated, 70 % of
# the answers given with probability 0.7 would be right. The scale was learned to tell apart the
# 256 captions of a batch, not ten groups, so nothing promises that. Beside it: how often the right
# class is among the first k.

# %%
scale = float(clip.model.apply({"params": clip.params}, {}, ("logit/scale",))["logit/scale"])
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
for name in ("{}", best):
    logits = scale * images @ classifiers[name].T
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    confidence, hits = probability.max(axis=1), logits.argmax(axis=1) == truth
    bins = np.digitize(confidence, np.linspace(0, 1, 11)[1:-1])
    used = [b for b in range(10) if (bins == b).sum() >= 10]
    x = [confidence[bins == b].mean() for b in used]
    y = [hits[bins == b].mean() for b in used]
    weight = [(bins == b).mean() for b in used]
    error = np.sum(np.array(weight) * np.abs(np.array(x) - y)) / np.sum(weight)
    left.plot(x, y, "o-", label=f"{name}: off by {error:.2f} on average")
    rank = (logits > logits[np.arange(len(truth)), truth][:, None]).sum(axis=1)
    right.plot(range(1, 11), [(rank < k).mean() for k in range(1, 11)], "o-", label=name)
left.plot([0, 1], [0, 1], "--", color="grey", label="calibrated")
left.set(xlabel="probability of the answer", ylabel="share that is right", title="Calibration")
right.set(xlabel="k", ylabel="right class among the first k", title="Top-k", ylim=(0, 1.02))
left.legend(fontsize=8)
right.legend(fontsize=8)
figure.tight_layout()
plt.show()
print(f"scale {scale:.1f}")

# %% [markdown]
# With the plain names the model is too sure of itself; with the other prompts the same model is
# much closer to the diagonal. So calibration belongs to the prompts, too.
#
# ## Several data sets at once
#
# A suite is a YAML file of evaluators, each with the keys of its kind. Paths are relative to the
# file. One call runs them all and can write a table as Markdown, CSV or JSON. Here, the style that
# was trained on stands beside the one that was not.

# %%
from IPython.display import Markdown

suite = "".join(
    f"{style}: {{kind: classification, path: ../../data/emoji/{style}, label: label, "
    "classes: ../../data/emoji/groups.txt}\n"
    for style in ("google", "twitter")
)
print(suite)
Path("runs/suite.yaml").write_text(suite)
mmjax.evaluate(WORKDIR, task="suite", data="runs/suite.yaml", output="runs/suite.md")
Markdown(Path("runs/suite.md").read_text())

# %% [markdown]
# ## Read next
#
# - [Evaluation](../docs/guide/evaluation.md): all tasks and their keys, ImageNet and its variants,
#   k-NN and linear probes, evaluation while training.
# - [Weights in and out](03_weights_in_and_out.ipynb): the same evaluations of OpenAI's or
#   open_clip's weights.
# - [Add an evaluator](../docs/extend/evaluator.md).
