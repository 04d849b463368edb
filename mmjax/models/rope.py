"""Rotary positions (RoPE, Su et al., 2021), of words in a line and of patches on a grid.

Channel pairs of a query and of a key are turned by angles that grow with the position, so that
their product depends on the distance alone. A token with the angles 0 stays as it is.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Pairs = Literal["interleaved", "halves"]
Rule = Literal["none", "index", "scaled", "centres"]


def line_angles(positions: jax.Array, head: int, theta: float) -> jax.Array:
    """Of texts: int32 [..., L] -> float32 [..., L, d/2], p · theta^(-2k/d) for k below d/2; `head`
    is d, the width of a head."""
    frequencies = theta ** (-2 * np.arange(head // 2) / head)
    return positions[..., None].astype(jnp.float32) * np.float32(frequencies)


def grid_angles(
    rule: str,
    rows: int,
    columns: int,
    head: int,
    theta: float,
    native: int,
    first: int,
    class_token: bool,
) -> np.ndarray:
    """Of `first` tokens that stay, and then of patches, row by row: float32 [first + N, d/2].

    Half of the pairs turn with the row y and half with the column x, by p · theta^(-4k/d) for k
    below d/4. The rule says what p is, and which half comes first:

      index: x and y from 1 on, or from 0 without a class token, x first (Perception Encoder, Bolya
        et al., 2025);
      scaled: x and y from 0 on, y first (EVA-02, Fang et al., 2023);
      centres: 2π times the middle of the patch in -1…1 on each axis, y first (DINOv3, Siméoni et
        al., 2025).

    Args:
      rule: one of these.
      rows, columns: of patches.
      head: d, the width of a head, a multiple of 4.
      theta: base of the frequencies.
      native: "index" and "scaled": patches on a side of the grid that positions are scaled to, so
        that images of another size have the same positions in between; 0: they are not scaled.
      first: how many tokens come before the patches.
      class_token: whether one of these is a class token.
    """

    def axis(count: int) -> np.ndarray:
        index = np.arange(count, dtype=np.float64)
        if rule == "centres":
            return 2 * np.pi * (2 * (index + 0.5) / count - 1)
        index += rule == "index" and class_token
        return index * (native / count if native else 1)

    y, x = np.meshgrid(axis(rows), axis(columns), indexing="ij")
    axes = (x, y) if rule == "index" else (y, x)
    frequencies = theta ** (-4 * np.arange(head // 4) / head)
    angles = np.concatenate([p.reshape(-1, 1) * frequencies for p in axes], axis=1)
    return np.pad(angles, ((first, 0), (0, 0))).astype(np.float32)


def rotate(x: jax.Array, angles: jax.Array, pairs: str) -> jax.Array:
    """[B, L, heads, d] turned by angles float32 [B or 1, L, d/2], in float32, in the dtype of `x`.

    `pairs` says which channels are one: neighbours (interleaved), or those of the two halves.
    """
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    shape, axis = ((-1, 2), -1) if pairs == "interleaved" else ((2, -1), -2)
    cut = x.astype(jnp.float32).reshape(*x.shape[:-1], *shape)
    a, b = jnp.moveaxis(cut, axis, 0)
    turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=axis)
    return turned.reshape(x.shape).astype(x.dtype)
