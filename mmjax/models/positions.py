"""Position embeddings: fixed ones, those of texts that share a row, and of one grid for others."""

import jax
import jax.numpy as jnp
import numpy as np


def sincos_2d(
    rows: int, columns: int, width: int, temperature: float = 10_000.0, *, closed: bool = True
) -> np.ndarray:
    """Fixed positions [rows · columns, width]: sin and cos of x, then of y.

    The last of the width / 4 frequencies is 1 / temperature, as in big_vision (after MoCo v3, Chen
    et al., 2021); if not `closed`, that would be the next, as in MAE (He et al., 2022)."""
    y, x = np.mgrid[:rows, :columns]
    omega = 1.0 / temperature ** (np.arange(width // 4) / (width // 4 - closed))
    x, y = x.reshape(-1, 1) * omega, y.reshape(-1, 1) * omega
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)


def sincos_1d(length: int, width: int, *, closed: bool = False) -> jax.Array:
    """Fixed positions float32 [length, width]: the sines of all frequencies, then the cosines (of
    Vaswani et al., 2017, in the order of VideoPrism).

    If `closed`, the last of the width / 2 frequencies is 1 / 10,000, as in tensor2tensor and TIPS;
    else that would be the next."""
    half = width // 2
    angles = np.arange(length)[:, None] / 10_000 ** (np.arange(half) / (half - closed))
    return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], axis=1), jnp.float32)


def positions_in_segments(segment: jax.Array) -> jax.Array:
    """int32 [B, L] -> int32 [B, L]: how many tokens of the same run of numbers come before."""
    index = jnp.broadcast_to(jnp.arange(segment.shape[1]), segment.shape)
    begins = jnp.pad(segment[:, 1:] != segment[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return index - jax.lax.cummax(jnp.where(begins, index, 0), axis=1)


def axis_weights(old: int, new: int, method: str) -> np.ndarray:
    """What each of `new` positions on an axis takes of the `old` ones, float64 [new, old]; samples
    are at the middle of each cell.

    Args:
      old, new: numbers of positions.
      method: "cubic", Keys' kernel with a = -0.5, and "linear", both antialiased: stretched by
        old / new where that is above 1. "plain_cubic": a = -0.75 and not stretched, and the edge
        counts for positions beyond it, as PyTorch's F.interpolate has it without antialiasing.
    """
    scale = old / new
    centre = (np.arange(new) + 0.5) * scale - 0.5
    if method == "plain_cubic":
        weights, rows = np.zeros((new, old)), np.arange(new)
        for step in (-1, 0, 1, 2):
            index = np.floor(centre) + step
            inside = np.clip(index, 0, old - 1).astype(int)
            np.add.at(weights, (rows, inside), _keys(centre - index, -0.75))
        return weights
    distance = (np.arange(old) - centre[:, None]) / max(1.0, scale)
    weights = _keys(distance, -0.5) if method == "cubic" else np.maximum(1 - np.abs(distance), 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic kernel (1981) at distances x; 0 from 2 on."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def on_grid(table: jax.Array, old: tuple[int, int], new: tuple[int, int], method: str) -> jax.Array:
    """Positions of a grid of patches for another grid, by `axis_weights` of each axis.

    float [F + R·C, W], row by row after F tokens that stay, of the grid (R, C) -> float32 of the
    grid `new`. Of the same grid it is the table itself.
    """
    if old == new:
        return table
    first = table.shape[0] - old[0] * old[1]
    rows, columns = (axis_weights(n, m, method) for n, m in zip(old, new, strict=True))
    table = table.astype(jnp.float32)
    patches = jnp.einsum(
        "ir,jc,rcw->ijw", rows.astype(np.float32), columns.astype(np.float32),
        table[first:].reshape(*old, -1), precision=jax.lax.Precision.HIGHEST,
    )  # fmt: skip
    return jnp.concatenate([table[:first], patches.reshape(new[0] * new[1], -1)])


def resized_positions(table: jax.Array, shapes: jax.Array, count: int) -> jax.Array:
    """Learned positions of a square grid for the grids of other images, as NaFlex has them.

    Linear interpolation with antialiasing along each axis, the values of PyTorch's
    F.interpolate(mode="bilinear", antialias=True): row i of n takes the rows j of the table, of
    which there are G, with the weights max(0, 1 - |j + ½ - (i + ½) G / n| / max(1, G / n)) over
    their sum. Times 2 max(n, G) these are integers, so that nothing is rounded before the sum. All
    is float32, whatever the model's dtype.

    Args:
      table: float [G², W], row by row.
      shapes: int32 [B, 2], rows and columns of each image; 0 counts as 1.
      count: N, tokens of a sequence.

    Returns:
      float32 [B, N, W]; tokens behind the last one of an image have the position of its first.
    """
    side = round(table.shape[0] ** 0.5)
    sizes = jnp.maximum(shapes, 1)[:, None, :]  # [B, 1, 2]
    token = jnp.arange(count)[None]
    inside = token < sizes[..., 0] * sizes[..., 1]
    token = jnp.where(inside, token, 0)
    index = jnp.stack([token // sizes[..., 1], token % sizes[..., 1]], axis=-1)  # [B, N, 2]
    distance = jnp.abs(
        (2 * index[..., None] + 1) * side - (2 * jnp.arange(side) + 1) * sizes[..., None]
    )
    weights = jnp.maximum(2 * jnp.maximum(sizes, side)[..., None] - distance, 0)  # [B, N, 2, G]
    weights = weights / weights.sum(axis=-1, keepdims=True)
    both = weights[..., 0, :, None] * weights[..., 1, None, :]  # [B, N, G, G]
    return jnp.einsum(
        "bng,gw->bnw", both.reshape(*both.shape[:2], -1), table.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )  # fmt: skip
