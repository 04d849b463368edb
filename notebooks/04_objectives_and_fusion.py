# %% [markdown]
# # Objectives and fusion
#
# You will train one model on four objectives at once, contrastive, matching, masked language and
# captioning, and then let it write captions, fill in hidden words and judge pairs. It takes about a
# minute and a half on two CPU cores and needs no download.
#
# CLIP's two towers meet only in the loss, in one number for each pair. A *fusion* is a third part
# of the model, in which every token of the text attends to every patch of the image. It knows more
# of a pair, at a price: it runs anew for each pair of image and text.

# %%
import json
import logging
import shutil
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import mmjax
from mmjax import models, objectives
from mmjax.config import entry

plt.rcParams.update({"figure.dpi": 70, "axes.spines.top": False, "axes.spines.right": False})
logging.getLogger("mmjax.data").setLevel(logging.ERROR)

# %% [markdown]
# ## The data
#
# mmjax draws pictures of coloured shapes for trials: `generated:N`. Each has two captions, and is
# one of 24 kinds, six colours by four shapes. Two kinds are left out of the training: the model
# sees yellow things and crosses, but never a yellow cross. Pictures of the same kind have the same
# captions, so they are no negatives of each other: the field `group` says so.

# %%
UNSEEN = ("a yellow cross", "a purple triangle")
drawn = mmjax.data.open_source({"path": "generated:3600"})
records = [
    {"image": drawn[i].part("image"), "text": drawn.captions(i), "group": drawn[i].label}
    for i in range(len(drawn))
]
known = [record for record in records if record["text"][0] not in UNSEEN]
unknown = [record for record in records if record["text"][0] in UNSEEN]
train, held = known[:-256], known[-256:]
print(f"{len(train)} to train on, {len(held)} held out of the same kinds, {len(unknown)} of others")

figure, axes = plt.subplots(1, 6, figsize=(12, 2.3))
for axis, record in zip(axes, [*train[3:7], *unknown[:2]], strict=True):
    axis.imshow(record["image"])
    caption = record["text"][0]
    axis.set_title(f"{caption}\n{'not in training' if caption in UNSEEN else ''}")
    axis.axis("off")
figure.tight_layout()

# %% [markdown]
# ## The config
#
# The text tower gets a head that predicts tokens (`mlm_head`), and sees both ways unless an
# objective asks otherwise. The fusion is of the kind `cross`: the text tokens attend to the image
# tokens, which stay as they are, as in ALBEF. Each objective is an entry; its kind is its name,
# unless it says another.
#
# - `contrast` pulls the two towers' embeddings of a pair together, as CLIP does. `infonce` is the
#   same loss with the option that all of one group belong together.
# - `matching` asks the fusion which pairs are true. The false ones are drawn from the batch, more
#   often those that the towers find alike.
# - `mlm` hides words of the text, which the fusion is to predict from the rest and the image.
# - `caption` predicts each token from those before it and the image.

# %%
config = mmjax.config.default()
config.total_steps, config.batch_size = 240, 64

config.model = models.zoo.config("tiny")
config.model.name = "four objectives"
config.model.text.update(causal=False, mask_padding=True, pool="cls", mlm_head=True)
config.model.text.update(depth=1, vocab_size=601)  # 600 tokens and the mask
config.model.fusion = entry("model", kind="cross", depth=1)

config.objectives.contrast = entry(
    "objectives", kind="infonce", direction="both", positives="group"
)
config.objectives.matching = entry("objectives")
config.objectives.mlm = entry("objectives", rate=0.3, whole_word=True)
config.objectives.caption = entry("objectives")
config.optim.update(name="muon", lr=1e-2, warmup_steps=20)
config.optim.lr_scale = ((r".*(embed|norm|bias|logit)", 0.2),)  # all but the layers' matrices

config.data.tokenizer = "captions:600"
config.data.workers = 0
config.data.train.shapes = entry("data.train", path=mmjax.data.from_records(train, "train"))
held_path = mmjax.data.from_records(held, "held")
config.evals.held = entry("evals", kind="loss", path=held_path, batch_size=64, every=60)
config.log.every = 20

# %% [markdown]
# ## Which part reads what
#
# A part of the model says what it reads, columns of the batch or outputs of other parts, and what
# it gives. An objective says which outputs it requires, and of which *view* of the batch: the plain
# one, or one that it makes in the training step, with hidden words or with other pairs. The cell
# asks the model and the objectives for that, and draws it.

# %%
model = models.from_config(config.model)
built = objectives.build(config.objectives, config.model)

reads = set()  # (from, to, what)
for part, holder in model.parts.items():
    for function in holder.module.functions(part):
        for _, source in function.reads:
            giver, _, what = source.partition("/")
            if what and giver != part:
                reads.add((giver, part, what))
            elif source in ("image", "text"):  # not their masks
                reads.add((f"batch: {source}", part, ""))
for name, (objective, _) in built.items():
    for view, outputs in objective.requires.items():
        print(f"{name:9} of the view {view:15} requires {', '.join(outputs)}")
        if (name, view) != ("matching", "plain"):  # by which it only chooses the false pairs
            reads |= {(output.split("/")[0], name, output.split("/")[1]) for output in outputs}

place = {
    "batch: image": (0, 0.5), "batch: text": (0, -0.5),
    "logit": (3, 1.5), "image": (3, 0.5), "text": (3, -0.5), "fusion": (6, -1.5),
    "contrast": (9, 1.5), "caption": (9, 0.5), "mlm": (9, -0.5), "matching": (9, -1.5),
}  # fmt: skip
colours = {0: "#e9ecef", 3: "#a9d6e5", 6: "#61a5c2", 9: "#ffd6a5"}
figure, axis = plt.subplots(figsize=(12, 4.6))
for start, end, what in reads:
    arrow = {"arrowstyle": "->", "color": "#6c757d", "shrinkA": 36, "shrinkB": 40}
    axis.annotate("", place[end], place[start], arrowprops=arrow)
    middle = np.mean([place[start], place[end]], axis=0)
    axis.text(*middle, what, ha="center", va="center", backgroundcolor="white", zorder=4)
for node, (x, y) in place.items():
    box = {"boxstyle": "round,pad=0.5", "facecolor": colours[x], "edgecolor": "none"}
    axis.text(x, y, node, ha="center", va="center", size=13, bbox=box)
for x, title in zip(colours, ("batch", "towers", "fusion", "objectives"), strict=True):
    axis.text(x, 2.1, title, ha="center", color="#6c757d", size=12)
axis.set(xlim=(-0.8, 9.8), ylim=(-1.9, 2.3))
axis.axis("off")
figure.tight_layout()

# %% [markdown]
# ## Training
#
# The log line has the total loss and that of each objective. `held` is evaluated every 60 steps.

# %%
RUN = "runs/objectives"
shutil.rmtree(RUN, ignore_errors=True)
state = mmjax.train(config, RUN)

# %%
lines = [json.loads(line) for line in Path(RUN, "metrics.jsonl").read_text().splitlines()]
figure, axes = plt.subplots(1, 4, figsize=(13, 3))
for axis, name in zip(axes, built, strict=True):
    for prefix, style, label in (("", "-", "training"), ("held/", "o", "held out")):
        key = f"{prefix}loss/{name}"
        points = [(line["step"], line[key]) for line in lines if key in line]
        axis.plot(*zip(*points, strict=True), style, label=label, color="#2a6f97")
    axis.set(title=name, xlabel="step", ylim=(0, None))
axes[0].set_ylabel("loss")
axes[0].legend(frameon=False)
figure.tight_layout()

# %% [markdown]
# ## Write a caption
#
# `generate` searches for the likeliest text of each picture, token by token. Here are pictures that
# were held out, and in the last two columns the kinds that the model never saw.

# %%
clip = mmjax.load(RUN)
tokenizer = clip.tokenizer


def captions_of(pictures):
    said = models.generate(
        clip.model, clip.params, {"image": clip.preprocess(pictures)},
        start_id=tokenizer.start_id, end_id=tokenizer.eot_id,
    )  # fmt: skip
    return [
        text.strip()
        for text in tokenizer.wrapped.batch_decode(
            np.asarray(said.tokens), skip_special_tokens=True
        )
    ]


for title, some in (("held out", held), ("kinds not in training", unknown)):
    said = captions_of([record["image"] for record in some])
    right = np.mean([text in record["text"] for text, record in zip(said, some, strict=True)])
    print(
        f"{title}: {right:.0%} of {len(some)} pictures get one of their two captions, word by word"
    )

shown = [*held[:8], *unknown[:4]]
said = captions_of([record["image"] for record in shown])
figure, axes = plt.subplots(2, 6, figsize=(13, 5.4))
order = [0, 1, 2, 3, 8, 9, 4, 5, 6, 7, 10, 11]
for axis, number in zip(axes.flat, order, strict=True):
    axis.imshow(shown[number]["image"])
    right = said[number] in shown[number]["text"]
    words = said[number].split()
    title = "\n".join([" ".join(words[:5]), " ".join(words[5:])])
    axis.set_title(title, color="#2b9348" if right else "#d00000", size=11)
    axis.axis("off")
figure.tight_layout()

# %% [markdown]
# ## Fill in a hidden word
#
# The tokenizer of this run has no mask token, so the model uses the first row of the embedding that
# the tokenizer leaves free. We replace a word by it, and ask the head for the hidden token.


# %%
def fill(picture, text, word):
    """The probability of each token for the hidden `word` of the text."""
    columns = clip.tokenize(text.replace("[?]", word))
    (token,) = tokenizer.wrapped(word, add_special_tokens=False)["input_ids"]
    hidden = columns["text"][0].tolist().index(token)
    columns["text"][0, hidden] = tokenizer.vocab_size
    batch = {"image": clip.preprocess([picture]), **columns}
    out = clip.model.apply({"params": clip.params}, batch, ("fusion/tokens", "text/lm_head"))
    head = out["text/lm_head"]
    embedding, bias = head.unembedding()
    return jax.nn.softmax(head.hidden(out["fusion/tokens"][0, hidden]) @ embedding.T + bias)


QUESTIONS = [
    ("a [?] circle", "red"),
    ("a blue [?]", "square"),
    ("a picture of a cross that is [?]", "red"),
]
pictures = [next(r for r in held if r["text"][0] == t)["image"]
            for t in ("a green circle", "a blue triangle", "a black cross")]  # fmt: skip
figure, axes = plt.subplots(2, 3, figsize=(12, 5), height_ratios=(1, 1.1))
for (question, word), picture, (top, bottom) in zip(QUESTIONS, pictures, axes.T, strict=True):
    probability = np.asarray(fill(picture, question, word))
    best = np.argsort(-probability)[:4]
    top.imshow(picture)
    top.set_title(question, size=13)
    top.axis("off")
    bars = bottom.barh(
        [tokenizer.wrapped.decode([i]).strip() for i in best], probability[best], color="#2a6f97"
    )
    bottom.bar_label(bars, fmt="%.2f", padding=3)
    bottom.set(xlim=(0, 1.15), xlabel="probability")
    bottom.invert_yaxis()
figure.tight_layout()

# %% [markdown]
# The answers come from the pictures: by the text alone, any colour fits the first question.
#
# ## Judge pairs
#
# The logit of `matching` says whether image and text belong together. Every pair runs through the
# fusion, 25 here, while the towers would need only ten passes. So large collections are searched
# by the towers, and the fusion ranks the best of what they find.

# %%
TEXTS = ["a red circle", "a red square", "a green square", "a yellow cross", "a purple triangle"]
pictures = [next(r for r in [*held, *unknown] if r["text"][0] == text)["image"] for text in TEXTS]
batch = {
    "image": np.repeat(clip.preprocess(pictures), len(TEXTS), axis=0),
    **clip.tokenize(TEXTS * len(pictures)),
}
out = clip.model.apply({"params": clip.params}, batch, ("fusion/match",))
match = np.asarray(jax.nn.sigmoid(out["fusion/match"])).reshape(len(pictures), len(TEXTS))

figure, axis = plt.subplots(figsize=(6.4, 5.2))
axis.imshow(match, cmap="Blues", vmin=0, vmax=1)
for (i, j), value in np.ndenumerate(match):
    axis.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.5 else "k")
for i, image in enumerate(pictures):
    axis.imshow(image, extent=(-1.45, -0.55, i + 0.45, i - 0.45))
axis.set_xticks(range(len(TEXTS)), TEXTS, rotation=30, ha="right")
axis.set_yticks([])
axis.set(xlim=(-1.55, len(TEXTS) - 0.5), ylim=(len(TEXTS) - 0.5, -0.5), frame_on=False)
axis.set_title("Probability that they belong together", size=13)
figure.tight_layout()

# %% [markdown]
# The last two kinds were not in the training. The fusion accepts the purple triangle, and rejects
# the yellow cross with its own text.
#
# ## From the terminal
#
# A config as above is a file with a function `get_config`, and `mmjax train --config=FILE.py
# --workdir=runs/mine` runs it. The recipes `albef`, `coca_b32`, `vilt_b32` and `flava` combine
# objectives and fusions as their papers do; try one with `mmjax train --config=albef:smoke
# --workdir=runs/albef`.
#
# ## What to read next
#
# - [Distillation](05_distillation.ipynb): a loss that comes from another model.
# - Documentation: [Objectives](../docs/guide/objectives.md) has all kinds and their keys,
#   [Fusion](../docs/guide/fusion.md) the ways in which tokens can meet, and
#   [Adding an objective](../docs/extend/objective.md) one of your own in ten lines.
