"""Position embeddings for another image size, text length or number of frames, images and texts as
open_clip resizes them; and patch kernels for another patch size, as FlexiViT does.

Tests hold the positions against PyTorch's `F.interpolate`, which open_clip calls, and the kernels
against the formula of timm's `resample_patch_embed`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.errors import UserError
from mmjax.models.positions import axis_weights

Grid = tuple[int, int]  # rows and columns of patches


def resize_positions(
    position_embed: np.ndarray,
    old_grid: Grid,
    new_grid: Grid,
    *,
    class_token: bool,
    method: str = "cubic",
) -> np.ndarray:
    """Image positions float [N, W] on another grid of patches: float [M, W], by antialiased bicubic
    interpolation (Keys' kernel, a = -0.5; samples at the middle of each cell).

    Args:
      position_embed: row by row; the class token's first, where there is one.
      old_grid: rows and columns that the embedding has now.
      new_grid: those it shall have.
      class_token: the first of the N is the class token's and stays as it is.
      method: "cubic"; "linear", antialiased, too; or "plain_cubic", as PyTorch's F.interpolate does
        it without antialiasing (a = -0.75).

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
    patches = patches.reshape(*old_grid, width)
    rows, columns = (axis_weights(*sizes, method) for sizes in zip(old_grid, new_grid, strict=True))
    patches = np.einsum("ir,jc,rcw->ijw", rows, columns, patches.astype(np.float64), optimize=True)
    patches = patches.reshape(-1, width).astype(position_embed.dtype)  # rounded once
    return np.concatenate([first, patches])


def resize_sequence(position_embed: np.ndarray, length: int) -> np.ndarray:
    """Positions of texts or of frames, float [N, W], for another length: float [length, W], by
    linear interpolation without antialiasing (open_clip's choice for texts, which most others cut;
    Frozen in Time's `load_temporal_fix='bilinear'`)."""
    return _resize(position_embed, (length, position_embed.shape[1]), "linear", False)


def resize_patches(kernel: np.ndarray, size: Grid) -> np.ndarray:
    """A patch kernel float [P, Q, C, W] for patches of `size`: pinv(Rᵀ) · kernel of FlexiViT (Beyer
    et al., 2023), where R resizes a patch, antialiased and bicubic as timm does by default.

    Of larger patches, what the kernel gives for resized patches is what the old one gave for those
    before; of smaller ones it is the nearest to that in the mean square. R is the product of a
    matrix for each axis, and so its pseudo-inverse is. Computed in float64, rounded once.
    """
    down, across = (
        np.linalg.pinv(axis_weights(old, new, "cubic").T)
        for old, new in zip(kernel.shape[:2], size, strict=True)
    )
    found = np.einsum("pi,qj,ijcw->pqcw", down, across, kernel.astype(np.float64), optimize=True)
    return found.astype(kernel.dtype)


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
