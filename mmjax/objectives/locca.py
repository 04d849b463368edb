"""LocCa (Wan et al., 2024, arXiv:2403.19596), as SigLIP 2 has it (Tschannen et al., 2025,
arXiv:2502.14786): a decoder that sees the image's tokens says what is in the image and where."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.data.vocabulary import Vocabulary
from mmjax.models.tokens import TokenNll, token_nll
from mmjax.objectives.registry import LOCAL, Batch, Objective, Outputs, View, register
from mmjax.objectives.tokens import (
    check_length,
    hidden_at,
    mask_token,
    next_tokens,
    predicted_at_once,
    token_loss,
)
from mmjax.values import SHARE

CAPTION = "caption"
REGIONS = ("aref", "gcap")  # where is it, what is there; in the order of the column NAME_regions


class Passes(NamedTuple):
    """The sums of each example over the targets of the three passes."""

    caption: TokenNll
    aref: TokenNll
    gcap: TokenNll


@register("locca")
def locca(
    name: str,
    vocabulary: Vocabulary,
    model: ConfigDict | None = None,
    of: str = "fusion",
    text: str = "text",
    parallel: Annotated[float, SHARE] = 0.5,
) -> Objective:
    """Three passes of a decoder over the image's tokens: the caption, `ARef: text : box` and
    `GCap: box : text` of one region of the image, each step another.

    L = −mean of log p(next token) over what comes after the prefix of all three, over the global
    batch. An example without a caption, or without a region in its crop, has no such targets.
    Metrics: loss and accuracy of each pass.

    Args:
      of: The part whose tokens predict the next: a fusion, cross or concat.
      text: The text tower whose texts are predicted, by its head; its key boxes is True.
      parallel: Share of the captions whose tokens are all predicted at once, every input hidden
        and none causal.
    """
    if model is not None and text in model and not model[text].get("boxes"):
        raise ValueError(
            f"the texts of regions and their boxes are read by config.model.{text}: set its keys "
            "boxes=True and mlm_head=True"
        )
    if model is not None and of in model and model[of].kind not in ("cross", "concat"):
        raise ValueError(
            f"of={of!r} should name the decoder, a part of kind cross or concat that is of the "
            f"image and of {text!r}; config.model.{of} is a {model[of].kind}"
        )
    mask_id = mask_token(vocabulary) if parallel else 0

    def caption(batch: Batch, key: jax.Array, frozen: Outputs) -> Batch:
        del frozen
        ids, mask = batch[text], batch[f"{text}_mask"]
        targets = next_tokens(ids, mask, batch[f"{text}_given"][:, :1])
        new: dict[str, jax.Array] = {f"{text}_ar": jnp.ones_like(ids)}
        if parallel:
            new |= predicted_at_once(batch, text, new[f"{text}_ar"], parallel, mask_id, key)
        return {**batch, **new, "targets": targets}

    def region(number: int) -> View:
        def make(batch: Batch, key: jax.Array, frozen: Outputs) -> Batch:
            del key, frozen
            ids, mask = (batch[f"{text}_regions{end}"][:, number] for end in ("", "_mask"))
            given = batch[f"{text}_given"][:, 1 + number, None]
            return {
                **batch,
                text: ids,
                f"{text}_mask": mask,
                f"{text}_ar": jnp.ones_like(ids),
                "targets": next_tokens(ids, mask, given),
            }

        return View(make)

    views = {f"{name}/{CAPTION}": View(caption)}
    views |= {f"{name}/{task}": region(number) for number, task in enumerate(REGIONS)}

    def local(outputs, batch, own):
        del batch, own
        sums = []
        for task in Passes._fields:
            made = outputs[f"{name}/{task}"]
            tokens, head = made[f"{of}/tokens"], made[f"{text}/lm_head"]
            check_length(name, of, text, tokens, made[text])
            hidden = hidden_at(tokens, None, head)
            sums.append(token_nll(hidden, made["targets"], head.unembedding()))
        return Passes(*sums)

    def loss(outputs, batch, own):
        del batch, own
        passes: Passes = outputs[LOCAL]
        total, _ = token_loss(jax.tree.map(lambda *sums: sum(sums), *passes))
        metrics = {}
        for task, sums in zip(Passes._fields, passes, strict=True):
            metrics[f"{task}_loss"], found = token_loss(sums)
            metrics[f"{task}_accuracy"] = found["accuracy"]
        return total, metrics

    requires = {view: (f"{of}/tokens", f"{text}/lm_head") for view in views}
    return Objective(requires, loss, local, views, absent=(text,), owns=(f"{of}/",))
