"""The form of transformer blocks: keys by which they differ from CLIP's."""

from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models.rope import Pairs
from mmjax.schema import SHAPE_FREE, TRAINING_ONLY
from mmjax.values import POSITIVE, Range

BIASED = {"qkv": ("query", "key", "value"), "qv": ("query", "value"), "none": ()}


class Form(NamedTuple):
    """What the keys of `Formed` say to a block; this is CLIP's."""

    rms_norm: bool = False
    qk_norm: bool = False
    inner_norms: bool = False
    mlp_norm: bool = False
    gated: bool = False
    qkv_bias: str = "qkv"
    bias: bool = True
    layer_scale: float | None = None
    rope_pairs: str = "interleaved"


CLIP = Form()


class Formed(nn.Module, kw_only=True):
    """A part whose blocks have a form.

    Attributes:
      rms_norm: All layer norms of the part are RMSNorm (Zhang and Sennrich, 2019): no mean is
        subtracted, and there is no bias.
      qk_norm: A norm of queries and keys in each head (Dehghani et al., 2023).
      inner_norms: Norms before the last layer of attention and of the MLP (EVA-02).
      mlp_norm: One more norm before the MLP's first layer (ViTamin).
      gated: The MLP has a gate (Shazeer, 2020): SwiGLU with activation=silu, GeGLU with gelu.
      qkv_bias: Which of query, key and value have a bias.
      bias: The last layer of attention and the MLP have biases.
      layer_scale: First value of learned factors of what attention and the MLP add (LayerScale,
        Touvron et al., 2021); None: there are no factors.
      drop_path: Share of examples for which a block adds nothing in training, of the last block;
        it grows linearly from 0 (stochastic depth, Huang et al., 2016).
      rope_theta: RoPE: base of the frequencies.
      rope_pairs: RoPE: channels that are turned together, neighbours or those of two halves.
    """

    rms_norm: bool = False
    qk_norm: bool = False
    inner_norms: bool = False
    mlp_norm: bool = False
    gated: bool = False
    qkv_bias: Literal["qkv", "qv", "none"] = "qkv"
    bias: bool = True
    layer_scale: Annotated[float | None, TRAINING_ONLY, POSITIVE] = None
    drop_path: Annotated[float, SHAPE_FREE, TRAINING_ONLY, Range(0, below=1)] = 0.0
    rope_theta: Annotated[float, SHAPE_FREE, POSITIVE] = 10_000.0
    rope_pairs: Annotated[Pairs, SHAPE_FREE] = "interleaved"

    @property
    def form(self) -> Form:
        return form_of(self)

    def dropped(self, depth: int, train: bool) -> jax.Array | None:
        """float32 [depth], the share of examples that each block leaves alone; None: of none."""
        if not train or not self.drop_path:
            return None
        return jnp.asarray(np.linspace(0, self.drop_path, depth), jnp.float32)


KEYS = tuple(Formed.__annotations__)


def form_of(spec: Any) -> Form:
    """The form that a part, or its keys in a config, asks for."""
    return Form(**{name: getattr(spec, name) for name in Form._fields})


def check_rope(key: str, spec: ConfigDict, parts: int) -> None:
    """UserError: the width of a head does not divide into so many parts for RoPE."""
    head = spec.width // spec.heads
    if head % parts:
        raise UserError(
            f"{key}.rope: the width of a head, width / heads = {head}, must be a multiple of "
            f"{parts}."
        )
