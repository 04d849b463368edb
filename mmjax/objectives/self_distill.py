"""Self-distillation: a model learns from an average of itself, which sees more of the image.

`self_distill` is DINO's loss as SILC has it, `masked_distill` iBOT's as TIPS has it; SigLIP 2
(Tschannen et al., 2025, arXiv:2502.14786) trains with both in its last fifth, with weights 1 and
0.25. Both read crops that the loader makes (`config.data.crops`), and share the global one and the
teacher's run on it.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.data.modalities.crops import GLOBAL, LOCAL
from mmjax.models.towers.vision import has_class_token
from mmjax.objectives import prototypes as lib
from mmjax.objectives.masked_image import some_patches
from mmjax.objectives.prototypes import Centring
from mmjax.objectives.registry import LOCAL as OF_ROWS
from mmjax.objectives.registry import Batch, Objective, Outputs, Own, View, register
from mmjax.values import COUNT, NATURAL, POSITIVE, Range

Teacher = Literal["ema", "self"]
Momentum = Annotated[float, Range(0, below=1)]


class Rows(NamedTuple):
    """What the heads made of R vectors of each example: student [B, R, D], teacher [B, R, D] or
    [B, 1, D], both of unit length; the rows that count, bool [B, R] or None for all; and the
    student's vectors [B, R, W] before the head, or None."""

    student: jax.Array
    teacher: jax.Array
    mask: jax.Array | None = None
    features: jax.Array | None = None


@register("self_distill", smoke=lib.SMOKE)
def self_distill(
    name: str,
    model: ConfigDict,
    of: str = "image",
    teacher: Teacher = "ema",
    prototypes: Annotated[int, COUNT] = 65_536,
    hidden: Annotated[int, COUNT] = 2_048,
    bottleneck: Annotated[int, COUNT] = 256,
    temperature: Annotated[float, POSITIVE] = 0.1,
    teacher_temperature: Annotated[float, POSITIVE] = 0.04,
    centring: Centring = "centre",
    momentum: Momentum = 0.9,
    koleo: Annotated[float, NATURAL] = 0.0,
) -> Objective:
    """Cross-entropy of the student's prototypes on each local crop with the teacher's on the global
    crop, the mean over crops: DINO (Caron et al., 2021), one global crop and local ones alone as in
    SILC (Naeem et al., 2023, arXiv:2310.13355). The defaults are those of DINO's code.

    What is compared is the pooled vector (`features`) through an MLP head. Metrics: the entropy of
    the teacher's distribution (log of `prototypes` if it says nothing, 0 if it always says the
    same), the divergence of the student's from it, and `koleo`.

    Args:
      of: The tower, a vit, whose crops are compared.
      teacher: The model with averaged parameters (ema, by config.optim.ema), or as it is (self);
        its head is an average in both cases.
      prototypes: Outputs of the head.
      hidden: Width of the head's two hidden layers.
      bottleneck: Width of the vectors that prototypes are compared with.
      temperature: Of the student's softmax.
      teacher_temperature: Of the teacher's softmax.
      centring: What keeps the teacher from saying the same of all images: a running mean of its
        logits is subtracted (centre), or each prototype gets the same share of the batch
        (sinkhorn).
      momentum: centring=centre: decay of the running mean.
      koleo: Weight of KoLeo, which spreads the student's vectors over the batch, each crop's apart;
        DINOv2 has 0.1.
    """
    check_tower(model, of)
    seen, theirs, vectors = f"{of}{LOCAL}", f"{teacher}/{of}{GLOBAL}", f"{of}/features"

    def local(outputs, batch, own):
        del batch
        x, t = outputs[seen][vectors], outputs[theirs][vectors][:, None]
        student, taught = lib.embed(own.params, x), lib.embed(own.ema, t)
        return Rows(student, taught, features=x if koleo else None)

    def loss(outputs, batch, own):
        del batch
        rows: Rows = outputs[OF_ROWS]
        found = compared(rows, own, centring, temperature, teacher_temperature)
        value = found.cross_entropy.mean()
        metrics = {"entropy": found.entropy.mean()}
        metrics["divergence"] = value - metrics["entropy"]
        if rows.features is not None:
            spread = jax.vmap(lib.koleo, in_axes=1)(rows.features).mean()
            metrics["koleo"] = spread
            value += koleo * spread
        return value, metrics

    def params(key, shapes):
        width = shapes[seen][vectors].shape[-1]
        return lib.init_head(key, width, hidden, bottleneck, prototypes)

    return Objective(
        {seen: (vectors,), theirs: (vectors,)}, loss, local,
        {seen: shown(of, LOCAL), f"{of}{GLOBAL}": shown(of, GLOBAL)}, params=params,
        averaged=True, inputs=inputs_of(model, of, GLOBAL, LOCAL),
        **centre_of(name, centring, prototypes, momentum),
    )  # fmt: skip


@register("masked_distill", smoke=lib.SMOKE)
def masked_distill(
    name: str,
    model: ConfigDict,
    of: str = "image",
    rate: Annotated[float, Range(above=0, most=1)] = 0.5,
    all_patches: bool = False,
    teacher: Teacher = "ema",
    prototypes: Annotated[int, COUNT] = 65_536,
    hidden: Annotated[int, COUNT] = 2_048,
    bottleneck: Annotated[int, COUNT] = 256,
    temperature: Annotated[float, POSITIVE] = 0.1,
    teacher_temperature: Annotated[float, POSITIVE] = 0.04,
    centring: Centring = "centre",
    momentum: Momentum = 0.9,
) -> Objective:
    """Cross-entropy of the student's prototypes on each hidden patch of the global crop with the
    teacher's, which sees all of it: the mean over hidden patches, then over images (iBOT, Zhou et
    al., 2022, arXiv:2111.07832; TIPS, Maninis et al., 2025, arXiv:2410.16512).

    Hidden patches become the tower's learned token (its key mask_token) before positions. What is
    compared are the tower's `tokens`, before they are pooled. Metrics as of self_distill.

    Args:
      of: The tower, a vit, whose patches are compared.
      rate: Share of an image's patches that are hidden, at least one; TIPSv2 has 0.75.
      all_patches: The mean is over all patches, seen ones too (iBOT++ of TIPSv2, 2026,
        arXiv:2604.12012).
      teacher: The model with averaged parameters (ema, by config.optim.ema), or as it is (self, as
        in TIPSv2); its head is an average in both cases.
      prototypes: Outputs of the head.
      hidden: Width of the head's two hidden layers.
      bottleneck: Width of the vectors that prototypes are compared with.
      temperature: Of the student's softmax.
      teacher_temperature: Of the teacher's softmax.
      centring: What keeps the teacher from saying the same of all patches: a running mean of its
        logits is subtracted (centre), or each prototype gets the same share of the batch's
        patches (sinkhorn); over those that are in the loss, as in DINOv2.
      momentum: centring=centre: decay of the running mean.
    """
    check_masked(model, of)
    tower = model[of]
    patches = (tower.size // tower.patch_size) ** 2
    covered, patch_mask = max(1, round(rate * patches)), f"{of}_patch_mask"
    before = has_class_token(tower.pool) + tower.registers  # tokens that are no patches
    theirs, tokens = f"{teacher}/{of}{GLOBAL}", f"{of}/tokens"

    def view(batch: Batch, key: jax.Array, frozen: Outputs) -> Batch:
        del frozen
        image = batch[f"{of}{GLOBAL}"]
        return {**batch, of: image, patch_mask: some_patches(key, len(image), patches, covered)}

    def local(outputs, batch, own):
        del batch
        x, t = (outputs[whose][tokens][:, before:] for whose in (name, theirs))
        mask = None if all_patches else outputs[name][patch_mask]
        return Rows(lib.embed(own.params, x), lib.embed(own.ema, t), mask)

    def loss(outputs, batch, own):
        del batch
        rows: Rows = outputs[OF_ROWS]
        found = compared(rows, own, centring, temperature, teacher_temperature)
        value, entropy = (over_patches(x, rows.mask) for x in found)
        return value, {"entropy": entropy, "divergence": value - entropy}

    def params(key, shapes):
        width = shapes[name][tokens].shape[-1]
        return lib.init_head(key, width, hidden, bottleneck, prototypes)

    return Objective(
        {name: (tokens,), theirs: (tokens,)}, loss, local,
        {name: View(view), f"{of}{GLOBAL}": shown(of, GLOBAL)}, params=params, averaged=True,
        inputs=inputs_of(model, of, GLOBAL), owns=(f"{of}/mask_embed",),
        **centre_of(name, centring, prototypes, momentum),
    )  # fmt: skip


def over_patches(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The mean over the patches of an image that count, then over images; [B, N] -> float32 []."""
    if mask is None:
        return values.mean()
    return (jnp.where(mask, values, 0.0).sum(axis=1) / mask.sum(axis=1)).mean()


def compared(
    rows: Rows, own: Own, centring: str, temperature: float, teacher_temperature: float
) -> lib.Against:
    """Cross-entropies of the student's rows with the teacher's, and entropies of these."""
    if centring == "sinkhorn":
        targets = lib.sinkhorn(own.ema, rows.teacher, rows.mask, teacher_temperature)
    else:
        targets = lib.centred(own.state["centre"], teacher_temperature)
    return lib.against(own.params, rows.student, own.ema, rows.teacher, targets, temperature)


def centre_of(name: str, centring: str, prototypes: int, momentum: float) -> dict[str, Any]:
    """The state of an objective and its update: the running mean of the teacher's logits, float32
    [K], from 0; of sinkhorn there is none."""
    if centring == "sinkhorn":
        return {}

    def state(shapes: Outputs) -> Any:
        del shapes
        return {"centre": jnp.zeros(prototypes, jnp.float32)}

    def update(own: Own, outputs: Outputs, batch: Batch) -> Any:
        del batch
        rows: Any = outputs[f"{OF_ROWS}/{name}"]
        centre = lib.moved(own.state["centre"], own.ema, rows.teacher, rows.mask, momentum)
        return {"centre": centre}

    return {"state": state, "update": update}


def shown(of: str, crop: str) -> View:
    """The batch with a crop in the place of the image."""
    return View(lambda batch, key, frozen: {**batch, of: batch[f"{of}{crop}"]})


def inputs_of(model: ConfigDict, of: str, *crops: str) -> Mapping[str, tuple[str, Any]]:
    """The columns of crops, as of `Objective.inputs`."""
    kinds = {GLOBAL: "global_crop", LOCAL: "local_crops"}
    return {f"{of}{crop}": (kinds[crop], model[of]) for crop in crops}


def check_tower(model: ConfigDict, of: str) -> None:
    """ValueError: the part is no vision transformer."""
    kind = model[of].kind if of in model else "not there"
    if kind != "vit":
        raise ValueError(
            f"of={of!r} should name a vision transformer (vit) of the model, whose positions are "
            f"resized for crops, and config.model.{of} is {kind!r}"
        )


def check_masked(model: ConfigDict, of: str) -> None:
    """ValueError: the tower has no token for hidden patches, or does not give one of each patch."""
    check_tower(model, of)
    tower = model[of]
    if not (tower.mask_token or tower.pixel_head):
        raise ValueError(
            f"hidden patches need a token of their own: set config.model.{of}.mask_token=True"
        )
    if tower.patch_dropout:
        raise ValueError(f"every patch is compared: set config.model.{of}.patch_dropout=0")
    if tower.pool == "queries":
        raise ValueError(
            f"tokens of patches are compared, and config.model.{of}.pool='queries' gives those of "
            "queries: set it to another"
        )
