"""Position embeddings for another image size, text length or number of frames, images and texts as
open_clip resizes them.

Tests hold both against PyTorch's `F.interpolate`, which open_clip calls.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.errors import UserError

Grid = tuple[int, int]  # rows and columns of patches


def resize_positions(
    position_embed: np.ndarray, old_grid: Grid, new_grid: Grid, *, class_token: bool
) -> np.ndarray:
    """Image positions float [N, W] on another grid of patches: float [M, W], by antialiased bicubic
    interpolation (Keys' kernel, a = -0.5; samples at the middle of each cell).

    Args:
      position_embed: row by row; the class token's first, where there is one.
      old_grid: rows and columns that the embedding has now.
      new_grid: those it shall have.
      class_token: the first of the N is the class token's and stays as it is.

    Raises:
      UserError: N is not what `old_grid` and `class_token` say.
    """
    tokens, width = position_embed.shape
    extra = int(class_token)
    if tokens != extra + old_grid[0] * old_grid[1]:
        raise UserError(
            f"{tokens} position embeddings do not fill a grid of {old_grid[0]} x {old_grid[1]}"
            f"{' and a class token' if class_token else ''}."
        )
    if old_grid == new_grid:
        return position_embed
    first, patches = position_embed[:extra], position_embed[extra:]
    patches = _resize(patches.reshape(*old_grid, width), (*new_grid, width), "cubic", True)
    return np.concatenate([first, patches.reshape(-1, width)])


def resize_sequence(position_embed: np.ndarray, length: int) -> np.ndarray:
    """Positions of texts or of frames, float [N, W], for another length: float [length, W], by
    linear interpolation without antialiasing (open_clip's choice for texts, which most others cut;
    Frozen in Time's `load_temporal_fix='bilinear'`)."""
    return _resize(position_embed, (length, position_embed.shape[1]), "linear", False)


def _resize(x: np.ndarray, shape: tuple[int, ...], method: str, antialias: bool) -> np.ndarray:
    if x.shape == shape:
        return x
    y = jax.image.resize(
        jnp.asarray(x, jnp.float32),  # interpolating half precision would round twice
        shape,
        method,
        antialias=antialias,
        precision=jax.lax.Precision.HIGHEST,
    )
    return np.asarray(y).astype(x.dtype)
