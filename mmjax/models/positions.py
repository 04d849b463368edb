"""Fixed position embeddings, and positions of texts that share a row."""

import jax
import jax.numpy as jnp
import numpy as np


def sincos_2d(rows: int, columns: int, width: int, temperature: float = 10_000.0) -> np.ndarray:
    """Fixed positions [rows · columns, width]: sin and cos of x, then of y, as in big_vision (after
    MoCo v3, Chen et al., 2021)."""
    y, x = np.mgrid[:rows, :columns]
    omega = 1.0 / temperature ** (np.arange(width // 4) / (width // 4 - 1))
    x, y = x.reshape(-1, 1) * omega, y.reshape(-1, 1) * omega
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)


def sincos_1d(length: int, width: int) -> jax.Array:
    """Fixed positions float32 [length, width]: the sines of all frequencies, then the cosines (of
    Vaswani et al., 2017, in the order of VideoPrism)."""
    angles = np.arange(length)[:, None] / 10_000 ** (np.arange(0, width, 2) / width)
    return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], axis=1), jnp.float32)


def positions_in_segments(segment: jax.Array) -> jax.Array:
    """int32 [B, L] -> int32 [B, L]: how many tokens of the same run of numbers come before."""
    index = jnp.broadcast_to(jnp.arange(segment.shape[1]), segment.shape)
    begins = jnp.pad(segment[:, 1:] != segment[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return index - jax.lax.cummax(jnp.where(begins, index, 0), axis=1)
