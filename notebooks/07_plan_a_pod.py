# %% [markdown]
# # Plan a pod
#
# You will plan training for eight TPU chips that this machine does not have: what each of them
# would hold, compute and send, for three ways to divide the work. It takes about two minutes on
# two CPU cores, nearly all of it in the TPU's compiler, which comes with `pip install -e '.[tpu]'`
# and needs no TPU.

# %%
from concurrent.futures import ThreadPoolExecutor

import matplotlib.pyplot as plt
import numpy as np

import mmjax

plt.rcParams.update({"figure.dpi": 70, "axes.spines.top": False, "axes.spines.right": False})
TOPOLOGY = "v5e:2x4"  # eight chips of TPU v5e, in a slice of 2 × 4

# %% [markdown]
# ## What is planned
#
# A plan compiles the real train step of a config (towers, loss, gradients, optimizer) with its
# shardings, for the devices of a topology, and reads the costs from the compiled program. The
# compiler of TPUs takes minutes for a model of published size. So here is the recipe
# `clip_vit_b32` with narrow towers: depth and vocabulary are those of ViT-B/32, width, images and
# texts are smaller. No data is needed.

# %%
SMALL = {
    "model.embed_dim": 128,
    "model.image.width": 128,
    "model.image.heads": 2,
    "model.image.mlp_dim": 512,
    "model.image.size": 64,
    "model.image.patch_size": 16,
    "model.image.remat": "none",
    "model.text.width": 128,
    "model.text.heads": 2,
    "model.text.mlp_dim": 512,
    "model.text.context_length": 16,
    "model.text.remat": "none",
    "data.text_lengths": (),
    "optim.microbatches": 1,
}


def config(data, fsdp, tensor, batch_size=128):
    """The small recipe on a mesh of data × fsdp × tensor devices."""
    mesh = {"mesh.data": data, "mesh.fsdp": fsdp, "mesh.tensor": tensor}
    return mmjax.recipe("clip_vit_b32", batch_size=batch_size, **SMALL, **mesh)


# %% [markdown]
# A mesh has three axes. Replicas along `data` each hold all parameters and take a part of the
# batch. Devices along `fsdp` take parts of the batch, too, but each stores only a part of the
# parameters and of the optimizer's state, and fetches the rest when it is needed. Devices along
# `tensor` share the same examples and divide heads and hidden units.
#
# Three meshes of eight devices, and the first of them with twice the batch. The compiler works
# outside of Python, so two threads keep two cores busy.

# %%
configs = {
    "data 8": config(8, 1, 1),
    "fsdp 8": config(1, 8, 1),
    "data 4 × tensor 2": config(4, 1, 2),
    "data 8, batch × 2": config(8, 1, 1, batch_size=256),
}
with ThreadPoolExecutor(2) as pool:
    found = pool.map(lambda config: mmjax.plan(config, TOPOLOGY), configs.values())
    plans = dict(zip(configs, found, strict=True))

for name, plan in plans.items():
    print(f"{name}: {plan}")

# %% [markdown]
# ## Memory
#
# Does it fit? A program may use 15.75 of the 16 GiB of a v5e chip, so this small model does, many
# times over. The optimizer (Adam) keeps two numbers for each parameter. Temporaries are what the
# compiler keeps in device memory within a step, activations for the backward pass among them.

# %%
MIB = 2**20


def parts(plan):
    """Bytes on each device."""
    return {
        "parameters": plan.parameter_bytes,
        "optimizer": plan.optimizer_bytes,
        "batch": plan.argument_bytes - plan.parameter_bytes - plan.optimizer_bytes,
        "temporaries": plan.temp_bytes,
    }


figure, axis = plt.subplots(figsize=(8.5, 3.2))
left = np.zeros(len(plans))
for part in parts(plan):
    sizes = np.array([parts(plan)[part] / MIB for plan in plans.values()])
    axis.barh(list(plans), sizes, left=left, label=part)
    left += sizes
axis.set(xlabel="MiB on each device", title=f"Peak memory, {TOPOLOGY}")
axis.invert_yaxis()
axis.legend(bbox_to_anchor=(1.0, 1.0), loc="upper left")
plt.show()

print(f"{'MiB on each device':<20}" + "".join(f"{name:>20}" for name in plans))
for part in parts(plan):
    print(f"{part:<20}" + "".join(f"{parts(p)[part] / MIB:>20.1f}" for p in plans.values()))
print(f"{'peak':<20}" + "".join(f"{p.peak_bytes / MIB:>20.1f}" for p in plans.values()))

# %% [markdown]
# With `fsdp 8` each device stores an eighth of the parameters and of the optimizer. It shows no
# temporaries, since a program as small as this one keeps its activations in the chip's on-chip
# memory, which does not count; those of a large model are too large for it. `tensor 2` halves what
# is divided by heads and hidden units; the embeddings of the vocabulary, half of this small model,
# are not.
#
# ## How parameters are split
#
# `plan.shardings` says for each parameter along which axes of the mesh its dimensions are split;
# `-` is not split. Parameters of a tower's layers are stacked, so their first dimension is the
# depth.

# %%
rows = [
    "image/blocks/attention/query/kernel",
    "image/blocks/attention/out/kernel",
    "image/blocks/mlp/fc1/kernel",
    "image/blocks/mlp/fc2/kernel",
    "image/blocks/norm1/scale",
    "text/token_embed/embedding",
    "text/head/kernel",
]
shown = ("data 8", "fsdp 8", "data 4 × tensor 2")
rows = [path for path in rows if path in plans["data 8"].shardings]
print(f"{'parameter':<38}{'shape':<14}" + "".join(f"{name:<20}" for name in shown))
for path in rows:
    shape = plans["data 8"].shardings[path].split(" ")[0]
    layouts = [plans[name].shardings[path].split(" ")[-1] for name in shown]
    print(f"{path:<38}{shape:<14}" + "".join(f"{layout:<20}" for layout in layouts))

# %% [markdown]
# ## Step time, and what bounds it
#
# Each of compute, memory and network takes some time at its published peak. If they overlap
# perfectly, the slowest decides. So these are lower bounds, not forecasts: expect about twice as
# long.

# %%
figure, axis = plt.subplots(figsize=(8, 3))
resources = list(plan.roofline)
for number, resource in enumerate(resources):
    shift = 0.25 * (number - (len(resources) - 1) / 2)
    times = [plan.roofline[resource] * 1e6 for plan in plans.values()]
    axis.barh(np.arange(len(plans)) + shift, times, height=0.25, label=resource)
axis.set_yticks(range(len(plans)), list(plans))
axis.invert_yaxis()
axis.set(xlabel="µs for a step", title="Time of each resource at its peak")
axis.legend()
plt.show()

print(f"{'':<20}{'bound by':>10}{'step, µs':>10}{'examples/s':>14}{'MFU at most':>13}  sent, MB")
for name, plan in plans.items():
    sent = dict.fromkeys([c["kind"] for c in plan.collectives], 0.0)
    for c in plan.collectives:
        sent[c["kind"]] += c["bytes"] / 1e6
    print(
        f"{name:<20}{plan.bound_by:>10}{plan.roofline_seconds * 1e6:>10.0f}"
        f"{plan.examples_per_second:>14,.0f}{plan.mfu_bound:>13.1%}  "
        + ", ".join(f"{kind} {size:.1f}" for kind, size in sent.items())
    )

# %% [markdown]
# With 16 pairs on each chip, the step of `data 8` is mostly the reading and writing of parameters
# and optimizer, all of them on every chip. `fsdp 8` divides that traffic by eight; it gathers the
# parameters from the other chips instead, and the network becomes the bound.
#
# ## The roofline
#
# A program that computes few FLOPs for each byte that it moves cannot use the chip's arithmetic,
# however fast that is. The roof is the lower one of two lines: bandwidth × intensity, and the
# peak. The peaks are those that the makers publish. Beside the small model stand the plans of
# `clip_vit_b16` on 256 chips (`v5e:16x16`) from [the guide](../docs/guide/planning.md): once with
# all activations kept (`remat=none`), once with only the results of matrix products kept
# (`remat=dots`).

# %%
roofs = {"v5e": (197e12, 819e9), "v5p": (459e12, 2765e9), "h100": (989e12, 3350e9)}
figure, axis = plt.subplots(figsize=(7.5, 4.2))
intensity = np.logspace(0.5, 4, 50)
for (chip, (peak, bandwidth)), style in zip(roofs.items(), ("-", "--", ":"), strict=True):
    roof = np.minimum(peak, bandwidth * intensity)
    axis.loglog(intensity, roof / 1e12, style, color="grey", label=f"roof of {chip}")
for name, plan in plans.items():
    x = plan.hardware_flops / plan.hbm_bytes
    axis.plot(x, plan.hardware_flops / plan.roofline_seconds / 1e12, "o", label=name)
of_guide = {
    "B/16, remat=none": (21.0e12, 141.5e9, 0.1728),
    "B/16, remat=dots": (21.2e12, 59.4e9, 0.108),
}
for (name, (flops, moved, seconds)), mark in zip(of_guide.items(), "^s", strict=True):
    axis.plot(flops / moved, flops / seconds / 1e12, mark, color="black", label=name)
axis.set(xlabel="FLOPs for each byte of device memory", ylabel="TFLOP/s of one chip")
axis.set_title("Roofline: what a step can reach at most")
axis.legend(bbox_to_anchor=(1.0, 1.0), loc="upper left")
plt.show()

# %% [markdown]
# Three plans of the small model lie on the slope: memory bounds them. The one with `fsdp 8` lies
# below the roof, since the network, which this figure does not show, bounds it. ViT-B/16 with
# `remat=none` is on the slope, too. With `remat=dots` it computes cheap things again in the
# backward pass, moves less than half of the bytes, and reaches the flat part of the roof.
#
# ## Twice the batch
#
# What grows with the batch, and what does not?

# %%
once, twice = plans["data 8"], plans["data 8, batch × 2"]
ratios = {
    "parameters and optimizer, bytes": [
        p.parameter_bytes + p.optimizer_bytes for p in (once, twice)
    ],
    "activations kept, bytes": [p.activation_bytes for p in (once, twice)],
    "peak memory, bytes": [p.peak_bytes for p in (once, twice)],
    "FLOPs": [p.hardware_flops for p in (once, twice)],
    "bytes to and from memory": [p.hbm_bytes for p in (once, twice)],
    "bytes sent": [sum(c["bytes"] for c in p.collectives) for p in (once, twice)],
    "step time, at least": [p.roofline_seconds for p in (once, twice)],
    "examples/s, at most": [p.examples_per_second for p in (once, twice)],
}
for name, (before, after) in ratios.items():
    print(f"{name:<34} × {after / before:.2f}")

# %% [markdown]
# The gradients that are added up over all replicas are as large as the parameters, whatever the
# batch. So a larger batch makes the network, the optimizer and the parameters' traffic cheaper for
# each example, and costs activations.
#
# ## For a real recipe
#
# The same call plans any recipe for any slice, and for GPU clusters with `pip install -e '.[gpu]'`
# in an environment of its own. From the command line it prints a report, and `--sweep` compares:
#
# ```sh
# mmjax plan --config=clip_vit_b16 --topology=v5e:16x16 --sweep=mesh=256x1x1,32x8x1 mmjax plan
# --config=siglip_so400m --topology=h100:32x8 --print-shardings
# ```
#
# ## Read next
#
# - [Will it fit?](../docs/guide/planning.md): all options, and what to change if it does not.
# - [Sharding](../docs/concepts/sharding.md): how the rules assign axes to parameters.
# - [Pods](../docs/guide/pods.md) and [launchers](../docs/guide/launchers.md): how to start the run.
# - [Performance](../docs/guide/performance.md): what to look at once it runs.
