"""Images and videos as patches, and the embedding of these."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.parallel.mesh import constrain


class PatchEmbed(nn.Module):
    """Images [B, S, S, 3], uint8 or float32 in 0..255 -> [B, N, W] of patches, row by row: a
    convolution without overlap, as one matmul, whose kernel has its layout [P, P, 3, W]. Or patches
    that are cut already, [B, N, 3 P²].

    Attributes:
      side: of a patch.
      width: of its embedding.
      use_bias: whether it has a bias.
      mean: of RGB in 0..1.
      std: of RGB in 0..1.
      dtype: compute dtype.
      tubelet: frames that a patch spans: the images are B groups of so many, and if there are
        several, the kernel is [tubelet, P, P, 3, W] (ViViT, Arnab et al., 2021).
    """

    side: int
    width: int
    use_bias: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: jnp.dtype
    tubelet: int = 1

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        shape = (self.tubelet,) * (self.tubelet > 1) + (self.side, self.side, 3, self.width)
        init = nn.initializers.lecun_normal(in_axis=tuple(range(len(shape) - 1)), out_axis=-1)
        kernel = self.param("kernel", init, shape)
        are_patches = image.ndim == 3
        pixels = image.reshape(*image.shape[:2], self.side, self.side, 3) if are_patches else image
        pixels = (pixels.astype(jnp.float32) / 255 - jnp.array(self.mean)) / jnp.array(self.std)
        patches = pixels.reshape(image.shape) if are_patches else cut_patches(pixels, self.side)
        count = patches.shape[1]
        if self.tubelet > 1:
            patches = patches.reshape(-1, self.tubelet, *patches.shape[1:]).swapaxes(1, 2)
        kernel = kernel.reshape(-1, self.width).astype(self.dtype)
        x = patches.reshape(-1, len(kernel)).astype(self.dtype) @ kernel
        x = x.reshape(-1, count, self.width)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.width,))
            x = x + bias.astype(self.dtype)
        return constrain(x, "batch", None, None)


def cut_patches(image: jax.Array, side: int) -> jax.Array:
    """[B, S, S, 3] -> [B, (S // side)², side² · 3], row by row; what fills no whole patch is left
    out, as a convolution does."""
    count = image.shape[1] // side
    image = image[:, : count * side, : count * side]
    patches = image.reshape(-1, count, side, count, side, 3).swapaxes(2, 3)
    return patches.reshape(-1, count * count, side * side * 3)


class PatchKernel(nn.Module):
    """Holds the patch embedding's parameters in the convolution's layout [P, P, 3, W]."""

    shape: tuple[int, ...]
    use_bias: bool
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self) -> dict[str, jax.Array]:
        params = {"kernel": self.param("kernel", self.kernel_init, self.shape)}
        if self.use_bias:
            params["bias"] = self.param("bias", nn.initializers.zeros, self.shape[-1:])
        return params


def some_of(key: jax.Array, rows: int, count: int, share: float) -> jax.Array:
    """int32 [rows, K], ascending: in each row a random `share` of 0 … count - 1, at least one."""
    noise = jax.random.uniform(key, (rows, count))
    return jnp.sort(jnp.argsort(noise, axis=1)[:, : max(1, round(count * share))], axis=1)
