# %% [markdown]
# # Distillation
#
# You will train a teacher for a minute, and then the same small student three times: alone, with
# the teacher inside the training step, and with the teacher's embeddings computed once beforehand.
# It takes about two minutes on two CPU cores.

# %%
import json
import logging
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import mmjax
from demo.prepare import prepare
from mmjax.config import entry

plt.rcParams.update({"figure.dpi": 70, "axes.spines.top": False, "axes.spines.right": False})
logging.getLogger("mmjax.data").setLevel(logging.ERROR)  # what it finds in the data
EMOJI = Path("../data/emoji")
print(prepare(EMOJI, styles=("google", "fluent", "twitter")))

RUNS = Path("runs/distillation")
shutil.rmtree(RUNS, ignore_errors=True)

# %% [markdown]
# ## The teacher
#
# The recipe `demo` is a small CLIP; here it has half of its image layers and weaker augmentation.
# It learns emoji in two drawing styles, and is evaluated on a third one that it never sees: for
# each picture, which of 1,923 labels is closest?


# %%
def emoji_config(steps):
    config = mmjax.recipe("demo", total_steps=steps, **{"model.image.depth": 2})
    with config.unlocked():  # to exchange sources and evaluators
        config.data.train = {
            style: entry("data.train", path=str(EMOJI / style), caption="json:captions")
            for style in ("google", "fluent")
        }
        config.evals = {
            "unseen": entry(
                "evals",
                kind="retrieval",
                path=str(EMOJI / "twitter"),
                candidates=str(EMOJI / "labels.txt"),
                every=25,
            )
        }
        config.data.augment.update(crop_scale=(0.7, 1.2), rotate=8.0, hue=0.05, grayscale=0.05)
        config.log.every = 20
        config.checkpoint.every = steps
    return config


config = emoji_config(150)
config.log.every = 50
config.evals.unseen.every = 0  # at the end only
teacher = RUNS / "teacher"
state = mmjax.train(config, teacher)

# %% [markdown]
# ## The student
#
# It is half as wide as the teacher, and has the same data, the same seed and fewer steps. Only its
# losses differ. Alone it has CLIP's loss. With a teacher three more are added, with the weights of
# CLIP-KD: imitate the teacher's embeddings, contrast your embeddings with the teacher's, and
# imitate the similarities that the teacher sees within the batch.
#
# `data.copies = 4` draws four augmented copies of each picture and repeats them epoch after epoch.
# Without a cache this is not needed; here all three students have it, so that they see the same.

# %%
STEPS = 100


def student_config(source="", cached=""):
    config = emoji_config(STEPS)
    with config.unlocked():
        config.model.name = "emoji student"
        config.model.image.update(width=64, heads=1, mlp_dim=256)
        config.model.text.update(width=32, mlp_dim=128)
        config.data.copies = 4
        if source:
            config.teachers.teacher = entry("teachers", source=str(source), cached=str(cached))
            weights = {"feature": 500.0, "interactive": 1.0, "similarity": 1.0}
            for name, weight in weights.items():
                config.objectives[f"distill_{name}"] = entry("objectives", weight=weight)
    return config


state = mmjax.train(student_config(), RUNS / "alone")

# %% [markdown]
# With the teacher in the step, every batch passes through both models. The log shows each loss.

# %%
state = mmjax.train(student_config(source=teacher), RUNS / "online")

# %% [markdown]
# ## Cached
#
# `mmjax.embed` runs the teacher once over every augmented copy and keeps its embeddings, 16 bits a
# number. Training then reads them beside the pictures, and does not need the teacher's weights in
# memory.

# %%
mmjax.embed(student_config(source=teacher), RUNS / "embeddings")
files = sorted((RUNS / "embeddings").rglob("*.npy"))
for file in files:
    print(file.name, np.load(file, mmap_mode="r").shape, f"{file.stat().st_size / 1e6:.1f} MB")

# %%
cached = student_config(source=teacher, cached=RUNS / "embeddings/teacher")
state = mmjax.train(cached, RUNS / "cached")

# %% [markdown]
# ## Beside each other
#
# A run writes everything that it logs to `metrics.jsonl`, a line for each step that is logged.


# %%
def logged(name, key):
    """Steps and values of a metric."""
    lines = [json.loads(line) for line in (RUNS / name / "metrics.jsonl").open()]
    return np.array([(line["step"], line[key]) for line in lines if key in line]).T


names = {"alone": "tab:grey", "online": "tab:blue", "cached": "tab:orange"}
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
for name, color in names.items():
    style = "--" if name == "cached" else "-"
    loss = "loss" if name == "alone" else "loss/clip"
    left.plot(*logged(name, loss), style, color=color, label=name)
    steps, recall = logged(name, "unseen/image_to_text/R@10")
    right.plot(steps, 100 * recall, "o" + style, color=color, label=name)
best = logged("teacher", "unseen/image_to_text/R@10")[1][-1]
right.axhline(100 * best, color="black", linestyle=":", label="teacher at its end")
left.set(xlabel="step", ylabel="CLIP's loss", title="The loss that all three have")
right.set(ylim=(0, None), xlabel="step", ylabel="R@10, %", title="Unseen style, picture → label")
left.legend()
right.legend(loc="lower right")
figure.tight_layout()
plt.show()

# %%
import jax

print("           parameters    R@1    R@5   R@10   examples/s")
for name in ("teacher", *names):
    parameters = sum(x.size for x in jax.tree.leaves(mmjax.load(RUNS / name).params))
    recall = [logged(name, f"unseen/image_to_text/R@{k}")[1][-1] for k in (1, 5, 10)]
    speed = np.median(logged(name, "examples_per_second")[1])
    shares = "  ".join(f"{share:5.1%}" for share in recall)
    print(f"{name:<9} {parameters:>11,}  {shares}   {speed:>10,.0f}")

difference = np.abs(logged("online", "loss")[1] / logged("cached", "loss")[1] - 1).max()
print(f"\nlosses online and cached differ by at most {difference:.1e} of their value")

# %% [markdown]
# With the teacher, the same student comes further in the same steps; the loss on the left is
# CLIP's alone, which all three minimise. Online and cached are one curve: the losses are the same,
# and so are the students. What the numbers do not show:
#
# - Each student was trained once, with one seed and for few steps. Another seed would give other
#   scores, and more steps another gap.
# - The speeds include whatever else this machine did at that time, and it was busy: online and
#   cached changed places from one execution of this notebook to another. The cache pays if the
#   teacher is larger than here, or if several students or many epochs use it; the run of
#   `mmjax.embed` has to be counted, too.
#
# `python benchmarks/distill.py --seeds=2` measures the same on the whole demo: a better teacher,
# longer students and two seeds. There the student finds the label of 28 % of the pictures, and 12
# % alone, and the cache doubles the speed; the table is in `benchmarks/README.md`.

# %% [markdown]
# ## Read next
#
# - [Distillation](../docs/guide/distillation.md): all six kinds, students that start from their
#   teacher's layers, recipes of TinyCLIP, CLIP-KD, MobileCLIP and DistilBERT.
# - [Weights in and out](03_weights_in_and_out.ipynb): a teacher may be any model that mmjax reads.
# - [Evaluation](../docs/guide/evaluation.md).
