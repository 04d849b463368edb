"""Image tokens from region features that an object detector gave before (UNITER, Oscar, VinVL)."""

from typing import Annotated, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models.graph import Function
from mmjax.models.layers import Dense, layer_norm
from mmjax.models.parts import register, sections
from mmjax.schema import SHAPE_FREE
from mmjax.values import COUNT, POSITIVE


@register("regions")
class RegionTower(nn.Module):
    """float32 regions [B, R, F] -> "tokens" [B, R, W]: a linear layer and a norm.

    The box of a region is among its numbers. There are no layers: the fusion's are what regions
    meet in. The fields are the config keys `model.image.*` of kind "regions".

    Attributes:
      regions: How many of an image are read, the first ones.
      region_width: Numbers of each, its box included.
      width: Width of the tokens.
      norm_eps: Epsilon of the layer norm.
    """

    dtype: jnp.dtype
    regions: Annotated[int, SHAPE_FREE, COUNT] = 50
    region_width: Annotated[int, COUNT] = 2_054
    width: Annotated[int, COUNT] = 768
    norm_eps: Annotated[float, SHAPE_FREE, POSITIVE] = 1e-5

    modality = "regions"

    SMOKE: ClassVar = {"regions": 3, "region_width": 16, "width": 32}  # as generated ones

    @classmethod
    def check(cls, name: str, spec: ConfigDict, model: ConfigDict) -> None:
        if not any(name in part.get("of", ()) for part in sections(model).values()):
            raise UserError(
                f"config.model.{name}.kind='regions' is read by a fusion: add config.model.fusion "
                f"= entry('model', kind='concat', of=({name!r}, 'text')), or a 'bottleneck'."
            )

    def functions(self, name: str) -> tuple[Function, ...]:
        return (Function(name, "__call__", (("regions", name),), ("tokens",)),)

    @nn.compact
    def __call__(
        self, outputs: tuple[str, ...], regions: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """Computes the tokens; whatever else may be asked, there is nothing."""
        del outputs, train
        init = nn.initializers.normal(self.region_width**-0.5)
        dense = Dense(self.width, dtype=self.dtype, kernel_init=init, name="region_embed")
        x = dense(regions.astype(self.dtype))
        return {"tokens": layer_norm(self.norm_eps, self.dtype, "norm_embed")(x)}
