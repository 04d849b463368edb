"""The image tower of NaFlex: images of any shape and resolution (Tschannen et al., 2025)."""

from typing import Annotated, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models.graph import Function
from mmjax.models.heads import check_head, check_heads, normal, tower_outputs
from mmjax.models.parts import register
from mmjax.models.positions import resized_positions
from mmjax.models.towers.vision import VisionTower
from mmjax.schema import SHAPE_FREE
from mmjax.values import COUNT


@register("naflex")
class NaflexTower(VisionTower):
    """Images as patches [B, N, 3 P²], uint8 or float32 in 0..255 -> "tokens" [B, N, W], "features"
    and "embed" [B, D].

    The parameters are those of the kind "vit", under the same names, so that weights of an image
    tower start it. Padding is neither attended to nor pooled.

    Attributes:
      size: Side in pixels of the square image whose patches have the learned positions; those of
        other shapes are interpolated.
      patches: Most patches of an image, but for the training batches of data.image_lengths.
      pool: How tokens become one: mean, or attention (map).
    """

    size: Annotated[int, COUNT] = 256
    patch_size: Annotated[int, COUNT] = 16
    patches: Annotated[int, COUNT] = 256
    pool: Annotated[Literal["mean", "map"], SHAPE_FREE] = "map"

    modality = "naflex"

    DERIVED = (  # as they are
        "position", "position_resize", "rope", "rope_grid", "queries", "pool_heads", "map_heads",
        "map_mlp_dim", "class_position", "stem", "stem_width", "patch_dropout",
        "registers", "mask_token", "pixel_head",
    )  # fmt: skip
    SMOKE: ClassVar = {
        **{key: value for key, value in VisionTower.SMOKE.items() if key != "stem"}, "patches": 16,
    }  # fmt: skip

    @classmethod
    def check(cls, name: str, spec: ConfigDict, model: ConfigDict) -> None:
        key = f"config.model.{name}"
        check_heads(key, spec)
        check_head(key, spec, model)
        if spec.size % spec.patch_size:
            raise UserError(
                f"{key}.size={spec.size} is no multiple of patch_size={spec.patch_size}: give the "
                "side of a square of whole patches."
            )

    def functions(self, name: str) -> tuple[Function, ...]:
        reads = (("image", name), ("mask", f"{name}_mask"), ("shape", f"{name}_shape"))
        return (Function(name, "__call__", reads, tower_outputs(self.depth)),)

    @nn.compact
    def __call__(  # type: ignore[override]
        self,
        outputs: tuple[str, ...],
        image: jax.Array,
        mask: jax.Array,
        shape: jax.Array,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Computes the named outputs as `VisionTower` does.

        Args:
          outputs: their names.
          image: patches row by row, each in the order (y, x, colour); padding at the end.
          mask: bool [B, N], False on padding.
          shape: int32 [B, 2], rows and columns of patches.
          train: turns `drop_path` on (rng "dropout").
        """
        x = self.embed_patches(image)
        table = self.param(
            "position_embed", normal(self.width**-0.5), (self.grid[0] ** 2, self.width)
        )
        x = x + resized_positions(table, shape, x.shape[1]).astype(x.dtype)
        if self.norm_pre:
            x = self.norm("norm_pre")(x)
        seen = mask.sum(axis=1, dtype=jnp.int32)  # lengths: the kernels are quicker with these
        return self.read_out(self.run_blocks(x, seen, train=train), outputs, mask)
