"""The learned scale of similarities, and for SigLIP a bias, as a part of the model."""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models.graph import Function
from mmjax.models.parts import register
from mmjax.schema import TRAINING_ONLY
from mmjax.values import ANY, Range


@register("scale")
class Scale(nn.Module):
    """Gives "scale", e to the parameter NAME_scale, and "bias", the parameter NAME_bias.

    With `temperature` the scale is 1 over the parameter NAME_temperature.

    Attributes:
      initial: Initial log of the scale; CLIP: ln(1/0.07).
      max: Largest scale, clamped after each update; 0: none.
      bias: Initial bias (SigLIP: -10); None: no bias.
      temperature: The parameter is 1 over the scale (TIPS), not the logarithm of the scale; `max`
        keeps it positive.
    """

    initial: Annotated[float, TRAINING_ONLY, Range(-88, 88)] = 2.6592600  # e^±88 fit in float32
    max: Annotated[float, TRAINING_ONLY, Range(1, also=(0,))] = 100.0
    bias: Annotated[float | None, TRAINING_ONLY, ANY] = None
    temperature: bool = False

    @classmethod
    def check(cls, name: str, spec: ConfigDict, model: ConfigDict) -> None:
        if spec.temperature and not spec.max:
            raise UserError(
                f"config.model.{name}.temperature=True may fall below 0 in training: set "
                f"config.model.{name}.max to the largest scale, e.g. 1000."
            )

    def functions(self, name: str) -> tuple[Function, ...]:
        gives = ("scale",) if self.bias is None else ("scale", "bias")
        return (Function(name, "__call__", (), gives),)

    @nn.compact
    def __call__(self, outputs: tuple[str, ...], train: bool = False) -> dict[str, jax.Array]:
        """float32 scalars; the scale is multiplicative."""
        constant = nn.initializers.constant
        # The parameters of a scale lie beside the other parts, as checkpoints have them.
        graph: Any = self.parent
        nn.share_scope(graph, self)
        result = {}
        if "scale" in outputs and self.temperature:
            initial = constant(np.exp(-self.initial))
            result["scale"] = 1 / self.param(f"{self.name}_temperature", initial, ())
        elif "scale" in outputs:
            result["scale"] = jnp.exp(self.param(f"{self.name}_scale", constant(self.initial), ()))
        if "bias" in outputs and self.bias is not None:
            result["bias"] = self.param(f"{self.name}_bias", constant(self.bias), ())
        return result

    def clamp(self, name: str, params: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The scale at most `max` (0: any), as CLIP has it."""
        log, inverse = f"{name}_scale", f"{name}_temperature"
        if self.max and log in params:
            return {log: params[log].clip(0, np.log(self.max))}
        return {inverse: params[inverse].clip(1 / self.max, 1)} if inverse in params else {}
