# %% [markdown]
# # Weights in and out
#
# You will train two small models, write them in the formats of transformers, open_clip, OpenAI's
# CLIP and big_vision, and see that what comes back gives the same embeddings, in mmjax and in
# PyTorch. It takes less than a minute on two CPU cores and needs no download.

# %%
import importlib.util
import logging
import shutil
import textwrap
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from safetensors.numpy import load_file

import mmjax
from mmjax.errors import UserError

plt.rcParams.update({"figure.dpi": 70, "axes.spines.top": False, "axes.spines.right": False})
logging.getLogger("mmjax.data").setLevel(logging.ERROR)
RUNS = Path("runs/weights")
shutil.rmtree(RUNS, ignore_errors=True)

# %% [markdown]
# ## Two models
#
# The formats were made for the architectures of their libraries. Three of them hold a CLIP, and
# big_vision's holds a SigLIP, which has other towers and another loss. Here is a small one of each,
# trained for a few seconds on pictures of coloured shapes that mmjax draws itself.
#
# OpenAI's format does not say how many attention heads a model has: its readers take the width
# divided by 64, and QuickGELU as the activation. This CLIP is built such that it fits.

# %%
clip_model = mmjax.models.zoo.config("tiny-quickgelu")
clip_model.image.heads = clip_model.text.heads = 1  # the width is 64
siglip_model = mmjax.models.zoo.config("tiny-siglip")
models = {"clip": clip_model, "siglip": siglip_model}

for objective, model in models.items():
    config = mmjax.recipe("pairs", total_steps=60, batch_size=64)
    with config.unlocked():
        config.model = model
        config.model.text.vocab_size = 600
        config.objectives = {objective: mmjax.config.entry("objectives")}
        config.data.train.pairs.path = "generated:1000"
        config.data.update(tokenizer="captions:600", text_lengths=(), workers=0)
        if objective == "siglip":  # outside training, images are resized as big_vision does
            config.data.update(resize="squash", interpolation="bilinear")
        config.optim.warmup_steps = 10
        config.log.every = 30
    mmjax.train(config, str(RUNS / objective))

# %% [markdown]
# `load` opens a run, a folder or file of any of the formats, or a name on the Hugging Face Hub. All
# give the same kind of object.

# %%
originals = {name: mmjax.load(RUNS / name) for name in models}
for model in originals.values():
    print(model)

# %% [markdown]
# ## Export
#
# `export` writes the newest checkpoint of a run. Each folder holds the weights, the tokenizer, what
# the library needs to know of the architecture and preprocessing, and a model card. Before that,
# every export tries some fifty unusual texts, and names those that the other library would turn
# into other tokens.

# %%
EXPORTS = [
    ("clip", "huggingface"), ("clip", "open_clip"), ("clip", "openai"),
    ("siglip", "big_vision"), ("siglip", "huggingface"), ("siglip", "open_clip"),
]  # fmt: skip
HAS_TORCH = importlib.util.find_spec("torch") is not None
if not HAS_TORCH:
    print("PyTorch is not installed: without it, the openai format is not written.")
    EXPORTS.remove(("clip", "openai"))


def folder_of(name, format):
    return RUNS / f"{name}-{format}"


for name, format in EXPORTS:
    try:
        mmjax.export(RUNS / name, folder_of(name, format), format)
        print(f"{name} → {format}:", *sorted(p.name for p in folder_of(name, format).iterdir()))
    except UserError as error:
        print(f"{name} → {format} is refused: {error}")

# %% [markdown]
# One export is refused: open_clip takes the image tower of a SigLIP from the library timm, by its
# name, and timm has none of this size, so nothing could open the folder.
#
# ## The same embeddings
#
# Now each folder is loaded again, and embeds images and texts. The images have the 32 pixels of the
# model. The table has the largest absolute difference to what the run computes, over all numbers.

# %%
shapes = mmjax.data.open_source({"path": "generated:240"})
drawn = [shapes[i].part("image") for i in range(len(shapes))]
images = originals["clip"].preprocess(drawn)
texts = sorted({caption for i in range(len(shapes)) for caption in shapes.captions(i)})
print(images.shape, images.dtype, "and", len(texts), "texts, such as", texts[:2])

written = [(name, format) for name, format in EXPORTS if folder_of(name, format).exists()]
print(f"\n{'folder':22}{'images':>10}{'texts':>10}{'logits':>10}")
for name, format in written:
    original, again = originals[name], mmjax.load(folder_of(name, format))
    differences = [
        np.abs(ours - theirs).max()
        for ours, theirs in (
            (original.embed_images(images), again.embed_images(images)),
            (original.embed_texts(texts), again.embed_texts(texts)),
            (original.logits(images, texts), again.logits(images, texts)),
        )
    ]
    print(f"{name + '-' + format:22}" + "".join(f"{x:10.1e}" for x in differences))

# %% [markdown]
# The files hold the same 32-bit numbers, in other orders and under other names. Embeddings also
# depend on how images are resized. The folders of transformers and open_clip say how. OpenAI's CLIP
# always cuts a square from the centre, and a `.npz` of big_vision is read with big_vision's
# defaults; other models are refused by these two. So the images may also be given as they were
# drawn, at 64 pixels:

# %%
for name, format in written:
    again = mmjax.load(folder_of(name, format))
    how = again.config.data.resize, again.config.data.interpolation
    difference = np.abs(originals[name].embed_images(drawn) - again.embed_images(drawn)).max()
    print(f"{name + '-' + format:22}{difference:10.1e}  resized by {how}")

# %% [markdown]
# A chain of conversions ends where it began, with the same bytes. `convert` needs no run; it takes
# whatever `load` takes.

# %%
first, second, third = folder_of("clip", "huggingface"), RUNS / "there", RUNS / "and-back"
mmjax.convert(first, second, "open_clip")
mmjax.convert(second, third, "huggingface")
print("the same bytes:", *(
    file.name for file in sorted(first.iterdir())
    if (third / file.name).read_bytes() == file.read_bytes()
))  # fmt: skip

# %% [markdown]
# ## In PyTorch
#
# The folder in Hugging Face's format is a `CLIPModel` of transformers, which knows nothing of JAX.
# Its logits come from another implementation on another framework. They agree up to rounding.

# %%
if HAS_TORCH:
    import torch
    from transformers import AutoTokenizer, CLIPModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    theirs = CLIPModel.from_pretrained(first).eval()
    tokenizer = AutoTokenizer.from_pretrained(first)

    clip = originals["clip"]
    mean, std = (np.array(clip.config.model.image[key]) for key in ("mean", "std"))
    pixels = (images / 255 - mean) / std
    with torch.no_grad():
        result = theirs(
            pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32),
            **tokenizer(texts, padding="max_length", max_length=16, return_tensors="pt"),
        )
    torch_logits = result.logits_per_image.numpy()
    logits = clip.logits(images, texts)

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8))
    axes[0].scatter(logits, torch_logits, s=3, color="#2a6f97", rasterized=True)
    axes[0].axline((0, 0), slope=1, color="grey", linewidth=0.8)
    axes[0].set(xlabel="mmjax", ylabel="transformers", title=f"{logits.size:,} logits")
    axes[1].hist((torch_logits - logits).ravel() * 1e6, bins=60, color="#2a6f97")
    axes[1].set(xlabel="difference / $10^{-6}$", ylabel="logits", title="transformers − mmjax")
    figure.tight_layout()
    print(f"largest difference {np.abs(torch_logits - logits).max():.1e}")
else:
    print("PyTorch is not installed, so there is nothing to compare with here.")

# %% [markdown]
# ## Name tables
#
# Each format is a table in mmjax: one row for each parameter, with its name there and how to turn
# the array. The same parameters can be found in the files by their values. mmjax keeps the layers
# of a tower in one array, so that `blocks/...` here is the first layer of that.

# %%
files = {"huggingface": load_file(first / "model.safetensors"),
         "open_clip": load_file(second / "open_clip_model.safetensors")}  # fmt: skip
if HAS_TORCH:
    state = torch.load(folder_of("clip", "openai") / "model.pt")
    files["openai"] = {name: tensor.float().numpy() for name, tensor in state.items()}

params = {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(array)
    for path, array in jax.tree_util.tree_leaves_with_path(originals["clip"].params)
}
SHOWN = ("image/patch_embed/kernel", "image/position_embed", "image/blocks/mlp/fc1/kernel",
         "image/norm_post/scale", "text/token_embed/embedding", "text/head/kernel")  # fmt: skip


def same(ours, theirs):
    """Whether two arrays hold the same numbers, in any order."""
    return ours.size == theirs.size and np.array_equal(np.sort(ours, None), np.sort(theirs, None))


for name in SHOWN:
    ours = params[name][0] if "/blocks/" in name else params[name]
    print(f"{name}  {list(ours.shape)}")
    for format, tensors in files.items():
        for their_name, theirs in tensors.items():
            if same(ours, theirs):
                print(f"    {format:12} {their_name}  {list(theirs.shape)}")

# %% [markdown]
# Kernels are transposed: JAX multiplies by `[in, out]`, PyTorch's layers hold `[out, in]`. Patch
# embeddings are convolutions, with the channels first in PyTorch. Queries, keys and values are
# three arrays in mmjax and transformers, and one of three times the size in the other two.
#
# ## What is refused
#
# If a format cannot hold a model such that its library would compute the same, nothing is written,
# and the message says which setting stands in the way.

# %%
for name, format in [("clip", "big_vision"), ("siglip", "openai"), ("clip", "onnx")]:
    try:
        mmjax.export(RUNS / name, RUNS / "refused", format)
    except UserError as error:
        print(f"{name} → {format}", textwrap.fill(str(error), 96), sep="\n", end="\n\n")

# %% [markdown]
# The same holds for the preprocessing. Here the SigLIP claims to cut squares:

# %%
siglip = mmjax.load(RUNS / "siglip")
siglip.config.data.resize = "shortest"
try:
    siglip.export(RUNS / "refused", "big_vision")
except UserError as error:
    print(textwrap.fill(str(error), 96))

# %% [markdown]
# ## From the terminal
#
# ```sh
# mmjax export  --workdir=runs/mine --format=huggingface --output=runs/mine/huggingface
# mmjax convert openai/clip-vit-base-patch32 clip-b32 --format=open_clip
# ```
#
# The second takes published weights from the Hub. In Python, `mmjax.load` of that name is a drop-in
# for transformers' former `FlaxCLIPModel`.
#
# ## What to read next
#
# - [Objectives and fusion](04_objectives_and_fusion.ipynb): more than two towers.
# - [Zero-shot evaluation](06_zero_shot_evaluation.ipynb): how good weights are.
# - Documentation: [Weights in and out](../docs/guide/weights.md) has the table of all formats and
#   architectures, [Fine-tuning](../docs/guide/finetuning.md) starts training from them,
#   [Coming from other libraries](../docs/coming_from.md) translates their options.
