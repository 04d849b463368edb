"""Objectives that predict tokens: masked language (BERT, RoBERTa, image-conditioned) and captions.

The model scores the targets that the views here put beside the masked or shifted texts, a few
places at a time (`mmjax/models/tokens.py`); scores of a whole vocabulary never leave it.
"""

import math

import jax
import jax.numpy as jnp

from mmjax.data.vocabulary import Vocabulary
from mmjax.models.tokens import NO_TARGET, TokenScores
from mmjax.objectives.registry import Batch, Objective, register

WORD_SLACK = 4  # whole words may hide this many tokens of a text more than `rate` says


@register("mlm")
def mlm(
    vocabulary: Vocabulary,
    of: str = "fused",
    rate: float = 0.15,
    mask: float = 0.8,
    random: float = 0.1,
    whole_word: bool = False,
) -> Objective:
    """Masked language modelling (Devlin et al., 2019), masked anew each step (Liu et al., 2019).

    L = −mean of log p(token) over the hidden tokens of the global batch. Metrics: accuracy and
    perplexity of these.

    Args:
      of: "fused" tokens, which have seen the image, or "text" tokens alone.
      rate: share of a text's tokens that are predicted, at least one; never special ones.
      mask, random: shares of those that become the mask token, or any token; the rest stay.
      whole_word: hide all tokens of a word or none.
    """
    if of not in ("fused", "text"):
        raise ValueError(f"of is fused or text, not {of!r}")
    if not 0 < rate <= 1 or mask + random > 1:
        raise ValueError(f"rate={rate}, mask={mask}, random={random} are shares of a whole")
    mask_id = mask_token(vocabulary)

    def view(batch: Batch, key: jax.Array) -> Batch:
        place_key, how_key, token_key = jax.random.split(key, 3)
        text = batch["text"]
        places, chosen = masked_places(
            text, batch["text_mask"], vocabulary, rate, whole_word, place_key
        )
        tokens = jnp.take_along_axis(text, places, axis=1)
        how = jax.random.uniform(how_key, places.shape)
        random_tokens = jax.random.randint(token_key, places.shape, 0, vocabulary.size, jnp.int32)
        shown = jnp.where(
            how < mask, mask_id, jnp.where(how < mask + random, random_tokens, tokens)
        )
        rows = jnp.arange(text.shape[0])[:, None]
        return {
            **batch,
            "text": jnp.asarray(text).at[rows, places].set(jnp.where(chosen, shown, tokens)),
            "target_places": places,
            "targets": jnp.where(chosen, tokens, NO_TARGET),
        }

    def loss(outputs, batch):
        del batch
        return token_loss(outputs["mlm"][f"{of}_scores"])

    return Objective({"mlm": (f"{of}_scores",)}, loss, {"mlm": view})


@register("caption")
def caption(vocabulary: Vocabulary, parallel: float = 0.0, prefix: float = 0.0) -> Objective:
    """Captioning: each token from the image and the tokens before it (CoCa, Yu et al., 2022).

    L = −mean of log p(next token) over the global batch. Metrics: accuracy and perplexity.

    Args:
      parallel: share of the examples whose tokens are all predicted at once, every input hidden
        (CapPa, Tschannen et al., 2023: 0.75).
      prefix: largest share of a text that is given whole, all of it seen by all, and not predicted
        (prefix-LM, as SimVLM, Wang et al., 2022); drawn evenly from 0 on.
    """
    if not (0 <= parallel <= 1 and 0 <= prefix < 1):
        raise ValueError(f"parallel={parallel} and prefix={prefix} are shares")
    if parallel and prefix:
        raise ValueError("a text that is predicted in parallel has no prefix: set one of them to 0")
    mask_id = mask_token(vocabulary) if parallel else 0

    def view(batch: Batch, key: jax.Array) -> Batch:
        text, mask = batch["text"], batch["text_mask"]
        ar = jnp.ones_like(text)
        targets = jnp.where(mask, text, NO_TARGET)[:, 1:]
        targets = jnp.pad(targets, ((0, 0), (0, 1)), constant_values=NO_TARGET)
        new = {}
        if prefix:
            share = prefix * jax.random.uniform(key, (text.shape[0], 1))
            given = jnp.maximum(1, (share * mask.sum(axis=1, keepdims=True)).astype(jnp.int32))
            places = jnp.arange(text.shape[1])[None, :]
            ar = (places >= given).astype(jnp.int32)
            targets = jnp.where(places + 1 >= given, targets, NO_TARGET)
        if parallel:
            at_once = jax.random.bernoulli(key, parallel, (text.shape[0], 1))
            ar = jnp.where(at_once, 0, ar)
            # All places are there, so that their number does not tell the length.
            new = {
                "text": jnp.where(at_once, mask_id, text).astype(text.dtype),
                "text_mask": mask | at_once,
            }
        return {**batch, **new, "text_ar": ar, "targets": targets}

    def loss(outputs, batch):
        del batch
        return token_loss(outputs["caption"]["caption_scores"])

    return Objective({"caption": ("caption_scores",)}, loss, {"caption": view})


def token_loss(scores: TokenScores) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The mean over all targets of the batch, and its metrics."""
    count = jnp.maximum(scores.targets.sum(), 1.0)
    loss = scores.nll.sum() / count
    return loss, {"accuracy": scores.correct.sum() / count, "perplexity": jnp.exp(loss)}


def masked_places(
    text: jax.Array,
    text_mask: jax.Array,
    vocabulary: Vocabulary,
    rate: float,
    whole_word: bool,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Places to hide, int32 [B, K] with K = ⌈rate · L⌉ (+ WORD_SLACK), all different in a row; and
    bool [B, K], which count: round(rate · n) of the n tokens that may be hidden, at least one.

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
