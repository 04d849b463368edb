"""Generation: captions from images (or texts alone), greedily or by beams, as one program.

Keys and values of earlier positions are kept, so that each step computes one token.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmjax.errors import UserError
from mmjax.models.fusion import Fusion
from mmjax.models.graph import Graph
from mmjax.models.towers.text import TextTower


class Generated(NamedTuple):
    """tokens: int32 [B, L], from the start token on. mask: bool [B, L], True up to the end token.
    log_prob: float32 [B], of all tokens after the first."""

    tokens: jax.Array
    mask: jax.Array
    log_prob: jax.Array


def generate(
    model: Graph,
    params: Any,
    batch: Mapping[str, jax.Array],
    *,
    start_id: int,
    end_id: int,
    length: int | None = None,
    beams: int = 1,
    length_penalty: float = 0.0,
    of: str | None = None,
    prompt: tuple[jax.Array, jax.Array] | None = None,
) -> Generated:
    """Searches for the likeliest text of each example.

    Args:
      model: one with a text tower that has a head, and a fusion of kind "cross" or "concat" that
        reads it, or none (a causal language model).
      params: its parameters.
      batch: columns [B, …] that the other tower of the fusion reads, e.g. `image` uint8
        [B, S, S, 3]; for a text tower alone any array [B, …].
      start_id, end_id: the tokenizer's `start_id` and `eot_id`.
      length: most tokens, both of these included; None: the model's context.
      beams: hypotheses kept; 1 is greedy.
      length_penalty: among the beams wins the largest log p / length^penalty.
      of: the part whose tokens predict the next: a fusion, or a text tower alone. None: the only
        one that the model has, a fusion before a text tower.
      prompt: how each text begins: int32 [B, P], P ≤ length, and int32 [B], how many of these
        tokens are given, at least one; they are no part of log p. None: the start token.

    Raises:
      UserError: the model cannot predict tokens one after another, or the length is beyond it.
    """
    parts = _parts(model, of)
    text = model.module(parts.tower)
    length = length or text.context_length
    if not 2 <= length <= text.context_length:
        raise UserError(
            f"length={length}: texts have 2 to config.model.{parts.tower}.context_length="
            f"{text.context_length} tokens."
        )
    if prompt is not None and prompt[0].shape[1] > length:
        raise UserError(f"length={length}: the prompts have {prompt[0].shape[1]} tokens: cut them.")
    return _generate(
        model, parts, params, dict(batch), start_id, end_id, length, beams, length_penalty, prompt
    )


class Parts(NamedTuple):
    """Names of the parts that predict tokens: a text tower, a fusion, and the other tower that it
    reads; a text tower alone has no fusion."""

    tower: str
    fusion: str = ""
    other: str = ""


def _parts(model: Graph, of: str | None) -> Parts:
    modules = {name: part.module for name, part in model.parts.items()}
    fusions = [name for name, module in modules.items() if isinstance(module, Fusion)]
    texts = [name for name, module in modules.items() if isinstance(module, TextTower)]
    able = [of] if of is not None else fusions or texts
    if len(able) > 1:
        raise UserError(f"Several parts of this model predict tokens: choose of= from {able}.")
    parts, causal = Parts(*able or [""]), True
    if parts.tower in fusions:
        fusion = modules[parts.tower]
        image, text = fusion.of
        parts = Parts(text, parts.tower, image)
        causal = fusion.style != "bottleneck"
    tower: Any = modules[parts.tower] if parts.tower in texts else None
    if tower is None or not tower.mlm_head or tower.tags or not causal:
        raise UserError(
            "This model cannot generate text: it needs a text tower with "
            f"config.model.{parts.tower or 'text'}.mlm_head=True and tags=0, and no "
            "bottleneck fusion."
        )
    return parts


@functools.partial(jax.jit, static_argnums=(0, 1, 6, 7))
def _generate(model, parts, params, batch, start_id, end_id, length, beams, length_penalty, prompt):
    def apply(*args, **kwargs):
        return model.apply({"params": params}, *args, **kwargs)

    rows = next(iter(batch.values())).shape[0]
    image, image_mask, images = None, None, 0
    if parts.fusion:
        name = f"{parts.other}/tokens"
        image = jnp.repeat(apply(batch, (name,))[name], beams, axis=0)
        if f"{parts.other}_mask" in batch:
            image_mask = jnp.repeat(batch[f"{parts.other}_mask"], beams, axis=0)
        images = image.shape[1] if model.module(parts.fusion).style == "concat" else 0
    decode = functools.partial(
        apply, parts=parts, images=images, image_mask=image_mask, method=_decode
    )

    def move(cache, beam):
        """The caches of the hypotheses that go on: row b · beams + beam[b, k]."""
        source = (jnp.arange(rows)[:, None] * beams + beam).reshape(-1)
        return jax.tree.map(lambda x: x[:, source], cache)

    def step(state):
        position, tokens, log_prob, ended, logits, cache = state
        next_log = jax.nn.log_softmax(logits.reshape(rows, beams, -1))
        vocabulary = next_log.shape[-1]
        only_end = jnp.where(jnp.arange(vocabulary) == end_id, 0.0, -jnp.inf)
        next_log = jnp.where(ended[:, :, None], only_end, next_log)
        if prompt:
            said = jax.lax.dynamic_index_in_dim(first, position, axis=1)  # [B, 1]
            only_said = jnp.where(jnp.arange(vocabulary) == said, 0.0, -jnp.inf)
            next_log = jnp.where(position < given[:, None, None], only_said[:, None], next_log)
        total = (log_prob[:, :, None] + next_log).reshape(rows, -1)
        log_prob, best = jax.lax.top_k(total, beams)
        beam, token = best // vocabulary, (best % vocabulary).astype(jnp.int32)
        tokens = jnp.take_along_axis(tokens, beam[:, :, None], axis=1).at[:, :, position].set(token)
        ended = jnp.take_along_axis(ended, beam, axis=1) | (token == end_id)
        ended &= position >= given[:, None]
        logits, cache = decode(token.reshape(-1, 1), position, move(cache, beam))
        return position + 1, tokens, log_prob, ended, logits, cache

    def goes_on(state):
        position, ended = state[0], state[3]
        return (position < length) & ~ended.all()

    first, given = prompt or (jnp.full((rows, 1), start_id), jnp.ones(rows, jnp.int32))
    first = jnp.pad(jnp.asarray(first, jnp.int32), ((0, 0), (0, length - first.shape[1])))
    logits, cache = decode(
        jnp.repeat(first[:, :1], beams, axis=0), 0,
        empty_cache(model, parts, rows * beams, length, images), image=image,
    )  # fmt: skip
    tokens = jnp.full((rows, beams, length), end_id, jnp.int32).at[:, :, 0].set(first[:, :1])
    # All hypotheses begin alike: but for the first they do not count.
    log_prob = jnp.where(jnp.arange(beams) == 0, jnp.zeros((rows, beams)), -jnp.inf)
    ended = jnp.zeros((rows, beams), bool)
    state = (jnp.int32(1), tokens, log_prob, ended, logits, cache)
    _, tokens, log_prob, *_ = jax.lax.while_loop(goes_on, step, state)

    later = jnp.arange(1, length) >= given[:, None, None]
    goes_on_after = (tokens[:, :, 1:] != end_id) | ~later
    mask = jnp.pad(jnp.cumprod(goes_on_after, axis=2), ((0, 0), (0, 0), (2, 0)), constant_values=1)
    mask = mask[:, :, :length].astype(bool)  # the end token counts, too
    winner = (log_prob / mask.sum(axis=2) ** length_penalty).argmax(axis=1)

    def of_winner(x):
        return jnp.take_along_axis(x, winner.reshape(-1, *(1,) * (x.ndim - 1)), axis=1)[:, 0]

    return Generated(of_winner(tokens), of_winner(mask), of_winner(log_prob))


def _decode(
    model: Graph,
    token: jax.Array,
    position: int | jax.Array,
    cache: Mapping[str, Any],
    parts: Parts,
    images: int,
    image_mask: jax.Array | None,
    image: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, Any]]:
    """Logits float32 [B, V] of what follows `token` [B, 1], the one at `position` of its text.

    Args:
      model: bound to its parameters.
      token: int32 [B, 1].
      position: the same for all rows.
      cache: of all earlier positions, as `empty_cache` begins it.
      parts: that predict the tokens.
      images: image tokens that come before the text in the fusion's stream.
      image_mask: bool [B, N], False on padding of the image tower's tokens; None: there is none.
      image: the image tower's "tokens", at position 0 only; the cache has them after that.
    """
    text: Any = getattr(model, parts.tower)
    position = jnp.asarray(position, jnp.int32)
    layers = cache["tower"]
    length = layers["own"][0].shape[2] if layers else text.context_length
    known = jnp.arange(length)[None, :] <= position
    result = text(("tokens",), token, known, cache=layers, position=position)
    tokens, new = result["tokens"], {"tower": result["cache"], "fusion": cache["fusion"]}
    if parts.fusion:
        at = position if image is not None else position + images
        fusion: Any = getattr(model, parts.fusion)
        tokens, _, new["fusion"] = fusion(
            tokens, known, image, image_mask=image_mask, cache=cache["fusion"], position=at
        )
    logits = text.logits(("logits",), tokens[:, -1])["logits"]
    return logits.astype(jnp.float32), new


def empty_cache(model: Graph, parts: Parts, rows: int, length: int, images: int) -> dict[str, Any]:
    """Zeros for the keys and values of every layer: of texts, and of the fusion's stream."""
    text, joint = model.module(parts.tower), model.module(parts.fusion)

    def own(depth: int, positions: int) -> dict[str, Any]:
        x = jnp.zeros((depth, rows, positions, text.heads, text.width // text.heads), text.dtype)
        return {"own": (x, x)} if depth else {}

    fusion = own(joint.depth, images + length) if joint else {}
    return {"tower": own(text.depth, length), "fusion": fusion}
