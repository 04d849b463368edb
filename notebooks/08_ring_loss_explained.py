# %% [markdown]
# # The ring loss, explained
#
# You will see why the contrastive losses of CLIP and SigLIP need every pair of a global batch, how
# mmjax computes them without ever holding the matrix of all pairs, and that values and gradients
# agree with float64. It takes about half a minute: eight simulated devices on a CPU, and no data.

# %% [markdown]
# JAX can divide a CPU into several devices, which run the same program, with the same collectives,
# as eight accelerators would. The number is set before JAX starts. Their arrays lie on a mesh:
# here one axis, `data`, over which the batch is split.

# %%
import jax

jax.config.update("jax_num_cpu_devices", 8)

import math

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.objectives.contrastive import clip_loss, siglip_loss

plt.rcParams.update({"figure.dpi": 70, "axes.spines.top": False, "axes.spines.right": False})
N = 8
mesh = jax.make_mesh((N,), ("data",), axis_types=(AxisType.Auto,))
jax.set_mesh(mesh)  # from here on, for the whole notebook
print(jax.devices())

# %% [markdown]
# ## The loss
#
# A batch has $B$ images and their $B$ texts. The towers turn them into embeddings of unit length,
# $x_i$ and $y_j$, and the logits are $\ell_{ij} = s \, x_i \cdot y_j$ with a learned scale $s$.
# CLIP asks each image to find its text among all texts, and each text its image among all images:
#
# $$
# L = \frac{1}{2B} \sum_i \Big[
#   \underbrace{\log \sum_j e^{\ell_{ij}}}_{\text{row } i} +
#   \underbrace{\log \sum_j e^{\ell_{ji}}}_{\text{column } i} - 2 \, \ell_{ii} \Big],
# \qquad
# \frac{\partial L}{\partial \ell_{ij}} =
#   \frac{1}{2B} \Big[ \mathrm{softmax}_j(\ell_{i \cdot}) + \mathrm{softmax}_i(\ell_{\cdot j})
#   - 2 \, \delta_{ij} \Big].
# $$
#
# SigLIP asks of each pair on its own whether it belongs together, with $z_{ij} = 1$ on the
# diagonal and $-1$ elsewhere, and a learned bias $b$:
#
# $$
# L = -\frac{1}{B} \sum_{ij} \log \sigma\big( z_{ij} (\ell_{ij} + b) \big),
# \qquad
# \frac{\partial L}{\partial \ell_{ij}} =
#   -\frac{z_{ij}}{B} \, \sigma\big( -z_{ij} (\ell_{ij} + b) \big).
# $$
#
# Both are a few lines of NumPy. In float64, and with gradients written out by hand, they are the
# reference for the rest of the notebook.


# %%
def log_sum_exp(z, axis):
    top = z.max(axis, keepdims=True)
    return (top + np.log(np.exp(z - top).sum(axis, keepdims=True))).squeeze(axis)


def clip_reference(x, y, s):
    """The loss, and its gradients by x, y and s."""
    size, dots = len(x), x @ y.T
    logits = s * dots
    rows, columns = log_sum_exp(logits, 1), log_sum_exp(logits, 0)
    loss = (0.5 * (rows + columns) - logits.diagonal()).mean()
    g = np.exp(logits - rows[:, None]) + np.exp(logits - columns) - 2 * np.eye(size)
    g /= 2 * size
    return loss, (s * g @ y, s * g.T @ x, (g * dots).sum())


def siglip_reference(x, y, s, b=-10.0):
    size, dots = len(x), x @ y.T
    z = 2 * np.eye(size) - 1
    margin = z * (s * dots + b)
    loss = np.logaddexp(0, -margin).sum() / size
    g = -z / (1 + np.exp(margin)) / size
    return loss, (s * g @ y, s * g.T @ x, (g * dots).sum())


B, D, scale = 2048, 64, 20.0
rng = np.random.default_rng(0)
x = rng.normal(size=(B, D))
y = x + rng.normal(size=(B, D))  # each text is near its image, as after some training
x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))

print(f"CLIP   {clip_reference(x, y, scale)[0]:.6f}")
print(f"SigLIP {siglip_reference(x, y, scale)[0]:.6f}")

# %% [markdown]
# ## Why the whole batch
#
# It would be simpler if each device computed the loss of its own $B/N$ pairs. But that is another
# loss: an image then looks for its text among $B/N$ texts, which is an easier task. The next cell
# computes both, and draws how the loss grows with the number of candidates.

# %%
own = [clip_reference(x[i : i + B // N], y[i : i + B // N], scale)[0] for i in range(0, B, B // N)]
print(f"every device for itself, {B // N} candidates: {np.mean(own):.3f}")
print(f"the global batch, {B:,} candidates: {clip_reference(x, y, scale)[0]:.3f}")

sizes = 2 ** np.arange(4, 12)
losses = [
    np.mean([clip_reference(x[i : i + n], y[i : i + n], scale)[0] for i in range(0, B, n)])
    for n in sizes
]
plt.figure(figsize=(5, 3))
plt.semilogx(sizes, losses, "o-", base=2)
plt.xlabel("candidates for each image and text")
plt.ylabel("CLIP's loss")
plt.title("The same embeddings, with more negatives")
plt.show()

# %% [markdown]
# So each image must meet each text, wherever they are. But the matrix of logits grows with the
# square of the batch:

# %%
print("        B     B × B in float32   of it, on each of 256 devices")
for size in (32_768, 262_144, 1_048_576):
    gib = 4 * size**2 / 2**30
    print(f"{size:>9,}     {gib:>10,.0f} GiB     {gib / 256:>10,.2f} GiB")

# %% [markdown]
# And the gradient needs copies of it. A v5e chip has 16 GiB for everything.
#
# ## The ring
#
# The loss reads the matrix only through one number for each row and each column, and the diagonal.
# A log-sum-exp can be computed in pieces: keep the largest logit so far, and the sum of
# exponentials relative to it. So a device can compute one block of logits, fold it into its row
# and column statistics, and forget it.
#
# Each device keeps its images. The texts go from device to device, and after $N$ hops every image
# has met every text. At hop $k$, device $d$ holds the texts that started at device $d - k$.

# %%
device, home = np.mgrid[:N, :N]
panels = {
    "dense: which device holds a block, all at once": device,
    "ring: the hop at which a block exists": (device - home) % N,
}
figure, axes = plt.subplots(1, 2, figsize=(10, 4.6))
for axis, (title, number) in zip(axes, panels.items(), strict=True):
    axis.imshow(number, cmap="viridis", alpha=0.45)
    for row in range(N):
        for column in range(N):
            axis.text(column, row, number[row, column], ha="center", va="center")
    axis.set(title=title, xlabel="texts of device", ylabel="images of device")
figure.tight_layout()
plt.show()

# %% [markdown]
# On the right, each hop has one block in each row: all devices work, each on another part of the
# texts. The column statistics travel with the texts, and after the last hop they are complete and
# at home. The whole forward pass, for all devices in turn:


# %%
def fold(statistics, block, axis):
    """Adds a block of logits to (largest so far, sum relative to it)."""
    top, total = statistics
    new = np.maximum(top, block.max(axis))
    added = np.exp(block - np.expand_dims(new, axis)).sum(axis)
    return new, total * np.exp(top - new) + added


images, texts = np.split(x, N), np.split(y, N)  # what each device holds
nothing = np.full(B // N, -1e30), np.zeros(B // N)
rows, columns = [nothing] * N, [nothing] * N
for hop in range(N):
    for d in range(N):  # at the same time, on N devices
        t = (d - hop) % N  # whose texts are here now
        block = scale * images[d] @ texts[t].T
        rows[d] = fold(rows[d], block, axis=1)
        columns[t] = fold(columns[t], block, axis=0)

lse = [np.concatenate([top + np.log(total) for top, total in side]) for side in (rows, columns)]
loss = (0.5 * (lse[0] + lse[1]) - scale * (x * y).sum(1)).mean()
print(f"in blocks of {B // N} × {B // N}: {loss:.15f}")
print(f"of the whole matrix:    {clip_reference(x, y, scale)[0]:.15f}")

# %% [markdown]
# The gradient of a logit (the formula above) reads the same statistics. So the backward pass goes
# around the ring once more, computes each block of logits again, and lets the gradient of the
# texts travel with the texts.
#
# ## Exact values and gradients
#
# `mmjax.objectives.contrastive` has each loss in both forms. The arrays are global: `dense` lets
# JAX split one matrix product over the devices, `ring` does what you have just seen. Both compute
# in float32 here, and the table shows how far they are from float64: relative for the two scalars,
# and relative to the largest entry for the gradients by $x$ and $y$.


# %%
def bias_fixed(x, y, s, implementation):
    return siglip_loss(x, y, s, -10.0, implementation=implementation)


def with_gradients(loss, implementation):
    return jax.jit(
        jax.value_and_grad(
            lambda x, y, s: loss(x, y, s, implementation=implementation), argnums=(0, 1, 2)
        )
    )


split = NamedSharding(mesh, P("data"))
x32, y32 = (jax.device_put(z.astype(np.float32), split) for z in (x, y))

print("                     loss      d/dx      d/dy      d/ds")
for name, loss, reference in (
    ("CLIP", clip_loss, clip_reference),
    ("SigLIP", bias_fixed, siglip_reference),
):
    value, gradients = reference(*(np.asarray(z, np.float64) for z in (x32, y32)), scale)
    for form in ("dense", "ring"):
        found, found_gradients = with_gradients(loss, form)(x32, y32, scale)
        errors = [
            np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max()
            for a, b in zip((found, *found_gradients), (value, *gradients), strict=True)
        ]
        print(f"{name:>6} {form:>6}  " + "  ".join(f"{error:8.1e}" for error in errors))

# %% [markdown]
# All errors are of the size that float32 rounding leaves; the ring is not an approximation.
#
# ## Memory
#
# The compiler says how many bytes a program needs beside its inputs and outputs, without running
# it. So the batch may be much larger than this machine could hold.

# %%
width = 256
batches = 2 ** np.arange(11, 18)


def compiled(form, size):
    """The loss and gradients of a batch of this size, compiled for the eight devices."""
    embed = jax.ShapeDtypeStruct((int(size), width), jnp.float32, sharding=split)
    s = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, P()))
    return with_gradients(clip_loss, form).lower(embed, embed, s).compile()


programs = {form: [compiled(form, size) for size in batches] for form in ("dense", "ring")}
temporaries = {
    form: [program.memory_analysis().temp_size_in_bytes for program in found]
    for form, found in programs.items()
}

plt.figure(figsize=(6, 3.8))
for form, sizes in temporaries.items():
    plt.loglog(batches, sizes, "o-", base=2, label=form)
plt.loglog(batches, 4.0 * batches**2 / N, ":", color="grey", base=2, label="4 B² / N: one copy")
plt.loglog(batches, 4.0 * batches * width / N, "--", color="grey", base=2, label="4 B D / N")
plt.xlabel("global batch B")
plt.ylabel("bytes on each device")
plt.title(f"Temporaries of loss and gradients, {N} devices, D = {width}")
ticks = 2.0 ** np.arange(20, 36, 5)
plt.yticks(ticks, [f"{tick / 2**20:,.0f} MiB" for tick in ticks])
plt.legend()
plt.show()
print("        B   dense, MiB   ring, MiB")
for size, dense, ring in zip(batches, *temporaries.values(), strict=True):
    print(f"{size:>9,}   {dense / 2**20:>10,.1f}   {ring / 2**20:>9,.1f}")

# %% [markdown]
# Twice the batch is at least four times the memory for `dense`. The ring's memory grows like that
# only up to $B$ = 8,192, where a block of $B/N \times B/N$ logits reaches $2^{20}$ entries. Larger
# blocks are computed in tiles of that size, and from there on the memory grows with the
# embeddings. These are the CPU compiler's numbers; those of TPUs and GPUs, up to a batch of
# 1,048,576, are in [the concept page](../docs/concepts/ring.md).
#
# ## What it costs
#
# Recomputing logits is work, and texts that travel are traffic. `mmjax plan` counts both in the
# text of a compiled program, loops by their trips, and its counter takes any program.

# %%
from mmjax.planning import hlo

which = list(batches).index(8192)
print("for B = 8,192, on each device:")
for form, found in programs.items():
    cost = hlo.analyse(found[which].as_text(), mesh.shape)
    product = 2 * 8192 * 8192 * width / N  # FLOPs of one product of all images with all texts
    sent = sum(collective.bytes for collective in cost.collectives)
    print(f"{form}: {cost.flops / product:.0f} matrix products, {sent / 1e6:.1f} MB sent:")
    for c in cost.collectives:
        print(f"    {c.kind:<18} {c.count:>3} times  {c.bytes / 1e6:>6.1f} MB")

# %% [markdown]
# Four matrix products instead of three, and about the same bytes: `dense` gathers all texts on
# every device and adds up their gradients over all devices; in the ring, each device only sends to
# its neighbour, a little at a time and while it computes. The loss is a small part of a training
# step: the towers' work for each pair is the same whatever the batch, and for the global batches
# of the published recipes it is the larger part by far. The next cell compares the two for
# ViT-B/32, with the usual count of 6 FLOPs for each parameter and token.

# %%
tokens = {"image": 50, "text": 77}
parameters = {"image": 85e6, "text": 38e6}  # of the blocks of ViT-B/32's two towers
towers = sum(6 * parameters[tower] * tokens[tower] for tower in tokens)
for size in (32_768, 1_048_576):
    for form, products in (("dense", 3), ("ring", 4)):
        share = products * 2 * size * 512 / (products * 2 * size * 512 + towers)
        print(f"B = {size:>9,}, {form:>5}: {share:.1%} of the FLOPs are the loss's")

# %% [markdown]
# ## In training
#
# `config.objectives.clip.implementation` is `auto`: it takes the ring as soon as a device would
# have more than $2^{24}$ logits. There is nothing else to set: a recipe like `clip_1m_batch`
# trains on a million pairs.

# %%
import mmjax

config = mmjax.recipe("clip_1m_batch")
print(f"{config.batch_size:,} pairs, implementation {config.objectives.clip.implementation!r}")
print(f"threshold at {N} devices: B = {math.isqrt(2**24 * N):,}")

# %% [markdown]
# ## Read next
#
# - [The ring](../docs/concepts/ring.md): the numbers of TPU and GPU compilers.
# - [Sharding](../docs/concepts/sharding.md): where parameters, batch and optimizer lie.
# - [Plan a pod](07_plan_a_pod.ipynb): will it fit, and what bounds the step?
# - [Objectives](../docs/guide/objectives.md): all losses, and how they add up.
