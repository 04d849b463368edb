"""Objectives that predict tokens: masked language (BERT, RoBERTa, image-conditioned) and captions.

A view masks or shifts the texts and puts the targets beside them. The negative log-likelihoods are
summed for each example inside its microbatch, a few positions at a time (`mmjax/models/tokens.py`).
"""

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.data.vocabulary import Vocabulary
from mmjax.errors import UserError
from mmjax.models.heads import LmHead
from mmjax.models.tokens import NO_TARGET, TokenNll, token_nll
from mmjax.objectives.registry import LOCAL, Batch, Objective, View, register
from mmjax.values import SHARE, Range

WORD_SLACK = 4  # whole words may hide this many tokens of a text more than `rate` says


@register("mlm")
def mlm(
    name: str,
    vocabulary: Vocabulary,
    of: str = "fusion",
    text: str = "text",
    rate: Annotated[float, Range(above=0, most=1)] = 0.15,
    mask: Annotated[float, SHARE] = 0.8,
    random: Annotated[float, SHARE] = 0.1,
    whole_word: bool = False,
) -> Objective:
    """Masked language modelling (Devlin et al., 2019), masked anew each step (Liu et al., 2019).

    L = −mean of log p(token) over the hidden tokens of the global batch. Metrics: accuracy and
    perplexity of these.

    Args:
      of: The part whose tokens predict: a fusion, which has seen the image, or the text tower.
      text: The text tower whose texts are masked and whose head predicts.
      rate: Share of a text's tokens that are predicted, at least one; never special ones.
      mask: Share of those that become the mask token.
      random: Share of those that become any token; the rest stay.
      whole_word: Hide all tokens of a word or none.
    """
    if mask + random > 1:
        raise ValueError(f"mask={mask} and random={random} are more than 1 together")
    mask_id = mask_token(vocabulary)

    def view(batch: Batch, key: jax.Array, frozen: Any) -> Batch:
        del frozen
        position_key, how_key, token_key = jax.random.split(key, 3)
        ids = batch[text]
        positions, chosen = masked_positions(
            ids, batch[f"{text}_mask"], vocabulary, rate, whole_word, position_key
        )
        tokens = jnp.take_along_axis(ids, positions, axis=1)
        how = jax.random.uniform(how_key, positions.shape)
        random_tokens = jax.random.randint(
            token_key, positions.shape, 0, vocabulary.size, jnp.int32
        )
        shown = jnp.where(
            how < mask, mask_id, jnp.where(how < mask + random, random_tokens, tokens)
        )
        rows = jnp.arange(ids.shape[0])[:, None]
        return {
            **batch,
            text: jnp.asarray(ids).at[rows, positions].set(jnp.where(chosen, shown, tokens)),
            "positions": positions,
            "targets": jnp.where(chosen, tokens, NO_TARGET),
        }

    # Of an empty text, which stands where a source has none, there is no token to hide.
    return token_objective(name, of, text, view, absent=(text,))


@register("caption")
def caption(
    name: str,
    vocabulary: Vocabulary,
    model: ConfigDict | None = None,
    of: str = "fusion",
    text: str = "text",
    parallel: Annotated[float, SHARE] = 0.0,
    prefix: Annotated[float, Range(0, below=1)] = 0.0,
) -> Objective:
    """Captioning: each token from the image and the tokens before it (CoCa, Yu et al., 2022).

    L = −mean of log p(next token) over the global batch. Metrics: accuracy and perplexity.

    Args:
      of: The part whose tokens predict the next: a causal fusion, or a causal text tower alone.
      text: The text tower whose texts are predicted, by its head.
      parallel: Share of the examples whose tokens are all predicted at once, every input hidden
        (CapPa, Tschannen et al., 2023: 0.75).
      prefix: Largest share of a text that is given whole, all of it seen by all, and not predicted
        (prefix-LM, as SimVLM, Wang et al., 2022); drawn evenly from 0 on.
    """
    if parallel and prefix:
        raise ValueError("a text that is predicted in parallel has no prefix: set one of them to 0")
    if model is not None and of in model and model[of].kind == "bottleneck":
        raise ValueError(
            f"a bottleneck is not causal: set config.model.{of}.kind to concat or cross"
        )
    mask_id = mask_token(vocabulary) if parallel else 0

    def view(batch: Batch, key: jax.Array, frozen: Any) -> Batch:
        del frozen
        ids, mask = batch[text], batch[f"{text}_mask"]
        ar = jnp.ones_like(ids)
        given: jax.Array | int = 1
        new: dict[str, jax.Array] = {}
        if prefix:
            share = prefix * jax.random.uniform(key, (ids.shape[0], 1))
            given = jnp.maximum(1, (share * mask.sum(axis=1, keepdims=True)).astype(jnp.int32))
            ar = (jnp.arange(ids.shape[1])[None, :] >= given).astype(jnp.int32)
        if parallel:
            new = predicted_at_once(batch, text, ar, parallel, mask_id, key)
        return {**batch, f"{text}_ar": ar, **new, "targets": next_tokens(ids, mask, given)}

    return token_objective(name, of, text, view)


def token_objective(
    name: str, of: str, text: str, view: Any, absent: tuple[str, ...] = ()
) -> Objective:
    """The tokens of the part `of` predict the targets that `view` puts beside the texts."""

    def local(outputs, batch, own):
        del batch, own
        made = outputs[name]
        tokens, head = made[f"{of}/tokens"], made[f"{text}/lm_head"]
        check_length(name, of, text, tokens, made[text])
        hidden = hidden_at(tokens, made.get("positions"), head)
        return token_nll(hidden, made["targets"], head.unembedding())

    def loss(outputs, batch, own):
        del batch, own
        return token_loss(outputs[LOCAL])

    requires = {name: (f"{of}/tokens", f"{text}/lm_head")}
    return Objective(requires, loss, local, {name: View(view)}, absent=absent)


def next_tokens(ids: jax.Array, mask: jax.Array, given: jax.Array | int) -> jax.Array:
    """The targets of texts: int32 [B, L], at each position the token after it.

    There are none on padding (`mask` bool [B, L] False), nor for the first `given` tokens, a number
    or int32 [B, 1] of 1 or more.
    """
    counts = mask & (jnp.arange(ids.shape[1]) >= given)
    targets = jnp.where(counts, ids, NO_TARGET)[:, 1:]
    return jnp.pad(targets, ((0, 0), (0, 1)), constant_values=NO_TARGET)


def predicted_at_once(
    batch: Batch, text: str, ar: jax.Array, share: float, mask_id: int, key: jax.Array
) -> dict[str, jax.Array]:
    """The columns of texts of which a `share`, by chance, have every input hidden and see all of
    themselves; the others see what `ar` int32 [B, L] says."""
    ids = batch[text]
    at_once = jax.random.bernoulli(key, share, (ids.shape[0], 1))
    return {
        text: jnp.where(at_once, mask_id, ids).astype(ids.dtype),
        # All positions are there, so that their number does not tell the length.
        f"{text}_mask": batch[f"{text}_mask"] | at_once,
        f"{text}_ar": jnp.where(at_once, 0, ar),
    }


def check_length(name: str, of: str, text: str, tokens: jax.Array, ids: jax.Array) -> None:
    """UserError: the tokens [B, L, W] of the part `of` are not those of texts [B, L]."""
    if tokens.shape[:2] != ids.shape:
        raise UserError(
            f"config.objectives.{name}.of={of!r} gives {tokens.shape[1]} tokens for a text of "
            f"{ids.shape[1]}: set it to {text!r} or to a part that fuses it."
        )


def hidden_at(tokens: jax.Array, positions: jax.Array | None, head: LmHead) -> jax.Array:
    """The head's hidden states [B, K, W] at `positions` int32 [B, K]; None: at all."""
    if positions is not None:
        tokens = jnp.take_along_axis(tokens, positions[:, :, None], axis=1)
    return head.hidden(tokens)


def token_loss(sums: TokenNll) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The mean over all targets of the batch, and its metrics."""
    count = jnp.maximum(sums.targets.sum(), 1.0)
    loss = sums.nll.sum() / count
    return loss, {"accuracy": sums.correct.sum() / count, "perplexity": jnp.exp(loss)}


def masked_positions(
    text: jax.Array,
    text_mask: jax.Array,
    vocabulary: Vocabulary,
    rate: float,
    whole_word: bool,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Positions to hide, int32 [B, K] with K = ⌈rate · L⌉ (+ WORD_SLACK), all different in a row;
    and bool [B, K], which count: round(rate · n) of the n that may be hidden, at least one.

    Whole words are hidden in a random order until there are as many; a word that K has no room for
    stays.
    """
    length = text.shape[1]
    slots = min(length, math.ceil(rate * length) + WORD_SLACK * whole_word)
    may = text_mask & ~jnp.isin(text, jnp.array(vocabulary.special, jnp.int32))
    wanted = jnp.maximum(1, jnp.round(rate * may.sum(axis=1, keepdims=True)))
    noise = jax.random.uniform(key, text.shape)
    if not whole_word:
        order = jnp.argsort(jnp.where(may, noise, 2.0), axis=1)[:, :slots]
        chosen = jnp.arange(slots) < wanted
        return order, chosen & jnp.take_along_axis(may, order, axis=1)

    starts = jnp.asarray(vocabulary.starts)[text]
    ends = jnp.asarray(vocabulary.ends)[text]
    begins = starts | jnp.pad(ends[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    word = jnp.cumsum(begins, axis=1) - 1  # [B, L]: the number of the token's word
    noise = jnp.where(may, jnp.take_along_axis(noise, word, axis=1), 2.0)
    order = jnp.argsort(noise, axis=1, stable=True)  # the tokens of a word stay together
    hidden = jnp.take_along_axis(may, order, axis=1)
    of_word = jnp.take_along_axis(word, order, axis=1)
    same = of_word[:, :, None] == of_word[:, None, :]
    rank = jnp.arange(length)
    first = jnp.where(same, rank, length).min(axis=2)  # the rank of the word's first token
    last = jnp.where(same, rank, -1).max(axis=2)
    chosen = hidden & (first < wanted) & (last < slots)
    return order[:, :slots], chosen[:, :slots]


def mask_token(vocabulary: Vocabulary) -> int:
    """The id that hides a token."""
    if vocabulary.mask_id is None:
        raise ValueError(
            "the tokenizer has no mask token and the model no row for one; set "
            f"config.model.text.vocab_size to {vocabulary.size + 1} or more"
        )
    return vocabulary.mask_id
