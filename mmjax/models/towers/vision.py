"""The image tower: a vision transformer (Dosovitskiy et al., 2021) in CLIP's and SigLIP's forms."""

from typing import Annotated, Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models.convolutions import STEM_STRIDE, STEMS
from mmjax.models.form import Formed, check_rope
from mmjax.models.graph import Function
from mmjax.models.heads import (
    POOLED,
    Head,
    MapPool,
    QueryPool,
    check_head,
    check_heads,
    masked_mean,
    normal,
    project,
    tower_outputs,
)
from mmjax.models.layers import (
    Activation,
    Dense,
    Kernel,
    Remat,
    Unroll,
    layer_norm,
    stack,
)
from mmjax.models.parts import register
from mmjax.models.patches import PatchEmbed, some_of
from mmjax.models.positions import on_grid, sincos_2d
from mmjax.models.rope import Rule, grid_angles
from mmjax.parallel.mesh import constrain
from mmjax.schema import AUXILIARY, RESUMABLE, SHAPE_FREE, TRAINING_ONLY
from mmjax.values import COUNT, COUNT_OR_0, NATURAL, POSITIVE, SHARE, Range

Mean = Annotated[tuple[float, float, float], SHAPE_FREE, SHARE]
Pool = Literal["cls", "mean", "mean_patches", "map", "map_cls", "queries"]
PositionResize = Literal["cubic", "plain_cubic", "linear"]
Deviation = Annotated[tuple[float, float, float], SHAPE_FREE, POSITIVE]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's


@register("vit")
class VisionTower(Formed):
    """Images [B, S, S, 3], uint8 or float32 in 0..255 -> "tokens" [B, N, W], "features" and
    "embed" [B, D].

    Images of another size than `size` have its positions resized. Of crops, n of each example,
    [B, n, S, S, 3], every output has the axis n, too.

    The fields are the config keys `model.image.*` of kind "vit".

    Attributes:
      embed_dim: Width of the shared embedding space.
      dtype: Compute dtype.
      size: Side of the square image in pixels.
      patch_size: Side of a patch in pixels.
      width: Width of the tokens.
      depth: Number of blocks.
      heads: Attention heads; must divide the width.
      mlp_dim: Hidden width of the blocks' MLP.
      activation: Activation of the MLP.
      norm_eps: Epsilon of the layer norms.
      head: Projection into the shared space; tanh: with bias and tanh, as BERT's pooler; mlp: two
        layers with ReLU between them; tanh_mlp: both (CLAP's text); narrow_mlp and wide_mlp: two
        with GELU, of open_clip's texts from transformers and of its ConvNeXt; normed: a norm and
        two without (AltCLIP).
      attention: Kernel: auto, xla, or what GPUs (cudnn) and TPUs (splash) have.
      remat: What the backward pass recomputes to save memory.
      unroll: Write the layers out (fast on CPU) or loop (compiles fast).
      pool: How tokens become one: class token, mean, mean of the patches beside a class token
        (mean_patches; CLIPA), attention (map), attention that sees a class token, too (map_cls;
        Perception Encoder), or the first of several attention queries (queries; open_clip's CoCa).
      queries: pool=queries: how many; the others give tokens for a fusion.
      pool_heads: pool=queries: heads of their attention.
      map_heads: pool=map and map_cls: heads of their attention; 0: as many as the blocks have.
      map_mlp_dim: pool=map and map_cls: hidden width of their MLP; 0: mlp_dim.
      norm_pooled: pool=mean and mean_patches: the last layer norm is of the mean, not of the tokens
        that it is taken of.
      block_norm: Norms of the blocks: of what attention and MLP read (pre), or of what they add
        (branch; EVA-02-CLIP's E).
      position: Position embedding.
      position_resize: Filter by which positions come to another image size: bicubic and antialiased
        (cubic), the same without antialiasing (plain_cubic; DINOv2), or linear and antialiased.
      rope: Rotary positions of patches in attention, by the index of column and row (Perception
        Encoder), by the index scaled to rope_grid (EVA-02), or by the patch's centre (DINOv3).
      rope_grid: rope=index or scaled: patches on a side of the grid that positions are scaled to;
        0: they are not.
      registers: Learned tokens after the class token that no pool takes (Darcet et al., 2024).
      mask_token: A learned token in the place of hidden patches, without a head for pixels.
      class_position: The class token has a learned position, too (MobileCLIP: not).
      stem: What makes tokens of pixels: one matmul for a patch, or convolutions of 16 pixels a
        token, MobileCLIP-B's (convolutions) or ViTamin's (mbconv).
      stem_width: stem=convolutions and mbconv: channels of the first convolution.
      norm_pre: A layer norm before the blocks, as CLIP has.
      patch_bias: A bias in the patch embedding.
      patch_dropout: Share of patches dropped in training (FLIP).
      pixel_head: A head for the pixels of patches, for patch_pixels.
      mean: Mean of RGB in 0..1.
      std: Deviation of RGB in 0..1.
    """

    embed_dim: int
    dtype: jnp.dtype
    size: Annotated[int, COUNT] = 224
    patch_size: Annotated[int, COUNT] = 32
    width: Annotated[int, COUNT] = 768
    depth: Annotated[int, NATURAL] = 12
    heads: Annotated[int, SHAPE_FREE, COUNT] = 12
    mlp_dim: Annotated[int, COUNT] = 3072
    activation: Activation = "gelu"
    norm_eps: Annotated[float, SHAPE_FREE, POSITIVE] = 1e-5
    head: Head = "linear"
    attention: Kernel = "auto"
    remat: Remat = "none"
    unroll: Unroll = True
    pool: Annotated[Pool, SHAPE_FREE] = "cls"
    queries: Annotated[int, Range(2)] = 256
    pool_heads: Annotated[int, SHAPE_FREE, COUNT] = 8
    map_heads: Annotated[int, SHAPE_FREE, COUNT_OR_0] = 0
    map_mlp_dim: Annotated[int, COUNT_OR_0] = 0
    norm_pooled: Annotated[bool, SHAPE_FREE] = False
    block_norm: Annotated[Literal["pre", "branch"], SHAPE_FREE] = "pre"
    position: Literal["learned", "sincos", "none"] = "learned"
    position_resize: Annotated[PositionResize, RESUMABLE] = "cubic"
    rope: Annotated[Rule, SHAPE_FREE] = "none"
    rope_grid: Annotated[int, SHAPE_FREE, COUNT_OR_0] = 0
    registers: Annotated[int, NATURAL] = 0
    mask_token: Annotated[bool, AUXILIARY] = False
    class_position: bool = True
    stem: Literal["patches", "convolutions", "mbconv"] = "patches"
    stem_width: Annotated[int, COUNT] = 192
    norm_pre: bool = True
    patch_bias: bool = False
    patch_dropout: Annotated[float, SHAPE_FREE, TRAINING_ONLY, Range(0, below=1)] = 0.0
    pixel_head: Annotated[bool, AUXILIARY] = False
    mean: Mean = MEAN
    std: Deviation = STD

    modality = "image"
    tubelet = 1  # frames that a patch spans

    SMOKE: ClassVar = {
        "size": 32, "patch_size": 8, "width": 32, "heads": 4, "mlp_dim": 64,
        "depth": lambda depth: min(depth, 2), "stem": "patches",
    }  # fmt: skip

    @classmethod
    def check(cls, name: str, spec: ConfigDict, model: ConfigDict) -> None:
        key = f"config.model.{name}"
        check_heads(key, spec)
        check_head(key, spec, model)
        if spec.pixel_head and spec.patch_dropout:
            raise UserError(f"{key}.pixel_head wants every patch: set {key}.patch_dropout=0.")
        if spec.pixel_head and spec.pool == "queries":
            raise UserError(
                f"{key}.pixel_head wants the patches' own tokens: set {key}.pool to another than "
                "'queries'."
            )
        check_pool(key, spec, model)
        if spec.rope != "none":
            check_rope(key, spec, 4)
        if spec.stem != "patches" and (spec.patch_size != STEM_STRIDE or spec.size % STEM_STRIDE):
            raise UserError(
                f"{key}.stem={spec.stem!r} makes a token of {STEM_STRIDE} pixels: set patch_size="
                f"{STEM_STRIDE} and size={spec.size} to a multiple of it."
            )
        if spec.patch_size > spec.size:
            raise UserError(
                f"{key}.patch_size={spec.patch_size} is larger than the image (size={spec.size})."
            )

    def functions(self, name: str) -> tuple[Function, ...]:
        gives = tower_outputs(self.depth) + ("pixels",) * self.pixel_head
        reads = (("image", name), ("patch_mask", f"{name}_patch_mask"))
        return (Function(name, "__call__", reads, gives),)

    @nn.compact
    def __call__(
        self,
        outputs: tuple[str, ...],
        image: jax.Array,
        patch_mask: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Computes the named outputs; `train` turns patch dropout on (rng "dropout").

        "tokens" are the normalised last-layer tokens (class token first, where there is one) or,
        where attention pools with several queries, the answers to all of these but the first
        [B, queries - 1, D]; "features" is what is pooled of them and projected, and "embed" the
        same at unit length, in float32. "pixels" float32 [B, N, 3 P²] are the pixels predicted for
        each patch; patches where `patch_mask` bool [B, N] is True are hidden from the tower.
        """
        crops = image.shape[:2] if image.ndim == 5 else ()
        if crops:
            image = image.reshape(-1, *image.shape[2:])
        x, angles = self.embed_tokens(image, patch_mask, train)
        found = self.read_out(self.run_blocks(x, train=train, angles=angles), outputs)
        return {n: y.reshape(*crops, *y.shape[1:]) for n, y in found.items()} if crops else found

    def embed_tokens(
        self, image: jax.Array, patch_mask: jax.Array | None, train: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        """[B, S, S, 3] -> what the blocks begin with, [B, N, W], the class token and registers
        first; and RoPE's angles, where there is any."""
        x = self.embed_patches(image)  # [B, N, W]
        grid = self.grid
        if image.ndim == 4:  # a waveform is not
            grid = image.shape[1] // self.patch_size, image.shape[2] // self.patch_size
        if self.pixel_head or self.mask_token:
            hidden = self.param("mask_embed", normal(0.02), (self.width,)).astype(x.dtype)
            if patch_mask is not None:
                x = jnp.where(patch_mask[:, :, None], hidden, x)
        if self.class_token:
            token = self.param("class_embed", normal(self.width**-0.5), (self.width,))
            token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, self.width))
            x = jnp.concatenate([token, x], axis=1)  # [B, 1 + N, W]
        if self.position != "none":
            x = x + self.positions(grid).astype(x.dtype)
        angles = self.angles(grid)
        if train and self.patch_dropout > 0:
            x, angles = self.drop_patches(x, angles)
        if self.registers:
            tokens = self.param("register_embed", normal(0.02), (self.registers, self.width))
            tokens = jnp.broadcast_to(tokens.astype(x.dtype), (len(x), *tokens.shape))
            first = int(self.class_token)
            x = jnp.concatenate([x[:, :first], tokens, x[:, first:]], axis=1)
        return self.norm("norm_pre")(x) if self.norm_pre else x, angles

    def norm(self, name: str) -> nn.Module:
        return layer_norm(self.norm_eps, self.dtype, name, rms=self.rms_norm)

    def angles(self, grid: tuple[int, int]) -> jax.Array | None:
        """RoPE's of all tokens, float32 [1, N, d/2], of a grid of rows and columns of patches."""
        if self.rope == "none":
            return None
        head, first = self.width // self.heads, self.first
        angles = grid_angles(
            self.rope, *grid, head, self.rope_theta, self.rope_grid, first, self.class_token
        )
        return jnp.asarray(angles)[None]

    def run_blocks(
        self, x: jax.Array, mask: jax.Array | None = None, *, train: bool, **fields: Any
    ) -> jax.Array:
        """The blocks on tokens [B, N, W]; `mask` and other `fields` are as of `stack`."""
        return stack(
            x, mask, dropped=self.dropped(self.depth, train), form=self.form, depth=self.depth,
            heads=self.heads, mlp_dim=self.mlp_dim, activation=self.activation,
            norm=self.block_norm,
            norm_eps=self.norm_eps, causal=False, attention=self.attention, remat=self.remat,
            unroll=self.unroll, dtype=self.dtype, **fields,
        )[0]  # fmt: skip

    def read_out(
        self, x: jax.Array, outputs: tuple[str, ...], mask: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """The named outputs of the last layer's tokens [B, N, W]; patches where `mask` bool
        [B, N], without a class token, is False are not pooled."""
        norm = self.norm("norm_post")
        if self.pool == "queries":
            return self.pool_by_queries(x, norm, outputs)
        result = {}
        if "tokens" in outputs:
            result["tokens"] = norm(x)
        if "pixels" in outputs:
            pixels = Dense(3 * self.patch_size**2, dtype=self.dtype, name="pixels",
                           kernel_init=normal(self.width**-0.5))  # fmt: skip
            patches = norm(x)[:, self.first :]
            result["pixels"] = pixels(patches).astype(jnp.float32)
        if POOLED & set(outputs):
            # CLIP normalises the class token alone, the others every token before pooling.
            pooled = norm(x[:, 0]) if self.pool == "cls" else self.pool_tokens(x, mask, norm)
            result |= project(pooled, self.head, self.embed_dim, self.dtype)
        return result

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of an image of `size`."""
        return (self.size // self.patch_size,) * 2

    @property
    def class_token(self) -> bool:
        return has_class_token(self.pool)

    @property
    def first(self) -> int:
        """Tokens before those of the patches."""
        return self.class_token + self.registers

    def pool_by_queries(
        self, x: jax.Array, norm: nn.Module, outputs: tuple[str, ...]
    ) -> dict[str, jax.Array]:
        """open_clip's CoCa (after Yu et al., 2022): the first query's answer is the image, those of
        the others, which are not computed unless asked for, are its tokens for a decoder."""
        pool = QueryPool(self.queries, self.pool_heads, self.embed_dim, self.norm_eps, self.dtype,
                         name="pool")  # fmt: skip
        y = norm(pool(x, self.queries if "tokens" in outputs else 1))
        result = {"tokens": y[:, 1:]} if "tokens" in outputs else {}
        if POOLED & set(outputs):
            result |= project(y[:, 0], self.head, self.embed_dim, self.dtype)
        return result

    def embed_patches(self, image: jax.Array) -> jax.Array:
        if self.stem != "patches":
            x = (image.astype(jnp.float32) / 255 - jnp.array(self.mean)) / jnp.array(self.std)
            stem = STEMS[self.stem](self.width, self.stem_width, self.dtype, name="stem")
            return constrain(stem(x.astype(self.dtype)), "batch", None, None)
        return PatchEmbed(self.patch_size, self.width, self.patch_bias, self.mean, self.std,
                          self.dtype, self.tubelet, name="patch_embed")(image)  # fmt: skip

    def positions(self, grid: tuple[int, int]) -> jax.Array:
        """Position embeddings [N, W] of a grid of patches; a class token's comes first (zero if
        sin-cos)."""
        first, (rows, columns) = int(self.class_token), self.grid
        if self.position == "learned":
            without = int(self.class_token and not self.class_position)
            shape = (first - without + rows * columns, self.width)
            table = self.param("position_embed", normal(self.width**-0.5), shape)
            table = jnp.pad(table, ((without, 0), (0, 0))) if without else table
        else:
            fixed = np.pad(sincos_2d(rows, columns, self.width), ((first, 0), (0, 0)))
            table = jnp.asarray(fixed, jnp.float32)
        return on_grid(table, self.grid, grid, self.position_resize)

    def drop_patches(
        self, x: jax.Array, angles: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Keeps a random (1 - patch_dropout) of each image's patches (FLIP, Li et al., 2023), which
        come after the class token, and their angles."""
        first = int(self.class_token)  # the class token always stays
        rng, count = self.make_rng("dropout"), x.shape[1] - first
        kept = some_of(rng, x.shape[0], count, 1 - self.patch_dropout)
        patches = jnp.take_along_axis(x, first + kept[:, :, None], axis=1)
        if angles is not None:
            others = jnp.broadcast_to(jnp.arange(self.first), (len(x), self.first))
            angles = angles[0, jnp.concatenate([others, self.first + kept], axis=1)]
        return jnp.concatenate([x[:, :first], patches], axis=1), angles

    def pool_tokens(self, x: jax.Array, mask: jax.Array | None, norm: nn.Module) -> jax.Array:
        """[B, N, W] -> [B, W], normalised, by mean, or by one attention query (SigLIP's MAP head).
        Registers are left out."""
        if self.pool == "mean_patches":
            x = x[:, self.first :]
        elif self.registers:
            first = int(self.class_token)
            x = jnp.concatenate([x[:, :first], x[:, self.first :]], axis=1)
        if self.pool not in ("mean", "mean_patches"):
            heads, mlp_dim = self.map_heads or self.heads, self.map_mlp_dim or self.mlp_dim
            return MapPool(heads, mlp_dim, self.activation, self.norm_eps, self.dtype,
                           name="pool")(norm(x), mask)  # fmt: skip
        x = x if self.norm_pooled else norm(x)
        x = x.mean(axis=1) if mask is None else masked_mean(x, mask)
        return norm(x) if self.norm_pooled else x


def check_pool(key: str, spec: ConfigDict, model: ConfigDict) -> None:
    """UserError: the heads that pool do not divide what they attend in; `key` is the part's."""
    if spec.pool == "queries" and model.embed_dim % spec.pool_heads:
        raise UserError(
            f"{key}.pool_heads={spec.pool_heads} must divide config.model.embed_dim="
            f"{model.embed_dim}."
        )
    if spec.map_heads and spec.width % spec.map_heads:
        raise UserError(f"{key}.map_heads={spec.map_heads} must divide {key}.width={spec.width}.")


def class_positions(spec: ConfigDict) -> int:
    """Learned positions of an image tower before those of its patches."""
    return int(has_class_token(spec.pool) and spec.get("class_position", True))


def has_class_token(pool: str) -> bool:
    """Whether an image tower of this `config.model.image.pool` has a token beside its patches."""
    return pool in ("cls", "mean_patches", "map_cls", "queries")
