"""The text tower: causal with EOT pooling (CLIP) or a class token at the end (CoCa, VideoPrism),
bidirectional (SigLIP), or post-norm (BERT)."""

from typing import Annotated, Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models.attention import may_see
from mmjax.models.form import Formed, check_rope
from mmjax.models.graph import Function
from mmjax.models.heads import (
    POOLED,
    Head,
    LmHead,
    MlmHead,
    check_head,
    check_heads,
    masked_mean,
    normal,
    pool_tokens,
    project,
    tower_outputs,
)
from mmjax.models.layers import (
    Activation,
    Cache,
    Kernel,
    Norm,
    Remat,
    Unroll,
    layer_norm,
    stack,
)
from mmjax.models.parts import register, sections
from mmjax.models.positions import positions_in_segments, sincos_1d
from mmjax.models.rope import line_angles
from mmjax.schema import SHAPE_FREE, TRAINING_ONLY
from mmjax.values import COUNT, COUNT_OR_0, NATURAL, POSITIVE, POSITIVE_OR_0

APPENDED = ("appended", "class")  # pools of a token behind the text


@register("transformer")
class TextTower(Formed):
    """int32 ids [B, L], L ≤ context -> "tokens" [B, L, W], "features" and "embed" [B, D].

    Of bags of texts [B, K, L] all outputs are [B, K, …], those of each text by itself.

    The fields are the config keys `model.text.*`.

    Attributes:
      embed_dim: Width of the shared embedding space.
      dtype: Compute dtype.
      vocab_size: Rows of the token embedding.
      context_length: Most tokens of a text, start and end included.
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
      norm: Layer norms before attention and MLP, or after them (BERT).
      embed_norm: A layer norm before the blocks, as BERT has.
      token_types: Rows of BERT's type embedding: the first is of the caption, the second of tags.
      tags: Last positions of a text that hold the tags of its image (Oscar).
      position: Position embedding; sincos: the fixed one of Vaswani et al. (2017), added to tokens
        times √width; sincos_t2t: the same with tensor2tensor's frequencies, and in no file (TIPS).
      rope: Rotary positions in attention.
      bag: Captions of an example that are read in training, the first of its record, as mil_nce
        takes them; 0: one, and no bag.
      boxes: Also read a region of the image and its box as texts, as locca takes them.
      positions: Rows of the position embedding, where they are more than a text can take
        (open_clip's texts from transformers: 514); 0: as many as it can.
      position_offset: Row of the position embedding where a text begins; RoBERTa: 2.
      mlm_head: BERT's masked-language head, for token_logits.
      causal: A token sees earlier tokens only.
      mask_padding: Padding is not attended to (needless if causal).
      pool: Which token is the text: (first) end, first, last position, mean, or one that is
        appended: with a position, as open_clip's CoCa has it, or without (class, VideoPrism).
      softcap: Attention's logits x become softcap · tanh(x / softcap); 0: they stay.
      centred_norms: Layer norms scale by 1 + their parameter.
    """

    embed_dim: int
    dtype: jnp.dtype
    vocab_size: Annotated[int, COUNT] = 49_408
    context_length: Annotated[int, COUNT] = 77
    width: Annotated[int, COUNT] = 512
    depth: Annotated[int, NATURAL] = 12
    heads: Annotated[int, SHAPE_FREE, COUNT] = 8
    mlp_dim: Annotated[int, COUNT] = 2048
    activation: Activation = "gelu"
    norm_eps: Annotated[float, SHAPE_FREE, POSITIVE] = 1e-5
    head: Head = "linear"
    attention: Kernel = "auto"
    remat: Remat = "none"
    unroll: Unroll = True
    norm: Norm = "pre"
    embed_norm: bool = False
    token_types: Annotated[int, NATURAL] = 0
    tags: Annotated[int, SHAPE_FREE, NATURAL] = 0
    position: Literal["learned", "sincos", "sincos_t2t", "none"] = "learned"
    rope: Annotated[bool, SHAPE_FREE] = False
    bag: Annotated[int, TRAINING_ONLY, COUNT_OR_0] = 0
    boxes: Annotated[bool, TRAINING_ONLY] = False
    position_offset: Annotated[int, NATURAL] = 0
    positions: Annotated[int, COUNT_OR_0] = 0
    mlm_head: bool = False
    causal: Annotated[bool, SHAPE_FREE] = True
    mask_padding: Annotated[bool, SHAPE_FREE] = False
    pool: Annotated[Literal["eot", "cls", "last", "mean", "appended", "class"], SHAPE_FREE] = "eot"
    softcap: Annotated[float, SHAPE_FREE, POSITIVE_OR_0] = 0.0
    centred_norms: Annotated[bool, SHAPE_FREE] = False

    SMOKE: ClassVar = {
        "vocab_size": 600, "context_length": 16, "width": 32, "heads": 4, "mlp_dim": 64,
        "depth": lambda depth: min(depth, 2), "tags": lambda tags: min(tags, 6),
        "bag": lambda bag: min(bag, 3),
    }  # fmt: skip

    @classmethod
    def check(cls, name: str, spec: ConfigDict, model: ConfigDict) -> None:
        key = f"config.model.{name}"
        check_heads(key, spec)
        check_head(key, spec, model)
        if spec.pool in APPENDED and (not spec.causal or spec.mask_padding):
            raise UserError(
                f"{key}.pool={spec.pool!r} has a mask of its own: set causal=True and "
                "mask_padding=False."
            )
        joints = [part for part in sections(model).values() if name in part.get("of", ())]
        if spec.rope:
            check_rope(key, spec, 2)
        if spec.rope and joints:
            raise UserError(
                f"{key}.rope is not of the layers of a fusion: set it to False, or take this part "
                "out of fusions."
            )
        rows = spec.position_offset + spec.context_length + (spec.pool == "appended")
        if 0 < spec.positions < rows:
            raise UserError(
                f"{key}.positions={spec.positions} are fewer than the {rows} that a text of "
                "context_length tokens has: raise it, or set it to 0."
            )
        if spec.rms_norm and spec.centred_norms:
            raise UserError(f"{key}.centred_norms is of layer norms: set {key}.rms_norm=False.")
        if spec.bag and (joints or spec.tags or spec.depth < 1):
            raise UserError(
                f"{key}.bag={spec.bag} is for a text tower by itself: set it to 0, or take this "
                "part out of fusions and set its tags=0 and its depth to 1 or more."
            )
        if spec.boxes and (spec.tags or spec.bag):
            raise UserError(f"{key}.boxes=True is of captions and regions: set tags=0 and bag=0.")
        if not spec.tags:
            return
        if not any(part.kind == "concat" for part in joints) or spec.depth or spec.token_types < 2:
            raise UserError(
                f"{key}.tags={spec.tags} are a third segment of an early fusion: set {key}.depth=0 "
                "and token_types=2, and add a fusion of kind='concat'."
            )
        if not 2 <= spec.tags <= spec.context_length - 2:
            raise UserError(
                f"{key}.tags={spec.tags} leaves no room: of context_length={spec.context_length} "
                "positions the caption and tags need two each."
            )

    def setup(self):
        self.token_embed = nn.Embed(
            self.vocab_size, self.width, dtype=self.dtype, embedding_init=normal(0.02)
        )
        if self.mlm_head:
            self.mlm = MlmHead(
                self.width, self.vocab_size, self.activation, self.norm_eps, self.dtype
            )

    @property
    def modality(self) -> str:
        if self.boxes:
            return "region_texts"
        return "tags" if self.tags else "captions" if self.bag else "text"

    def functions(self, name: str) -> tuple[Function, ...]:
        columns = {"text": name, "mask": f"{name}_mask", "segment": f"{name}_segment"}
        if not self.causal:  # else it is all 1, whatever a view says
            columns["ar"] = f"{name}_ar"
        tower = Function(name, "__call__", tuple(columns.items()), tower_outputs(self.depth))
        if not self.mlm_head:
            return (tower,)
        logits = Function(name, "logits", (("tokens", f"{name}/tokens"),), ("logits",))
        return tower, logits, Function(name, "lm_head", (), ("lm_head",))

    @nn.compact
    def __call__(
        self,
        outputs: tuple[str, ...],
        text: jax.Array,
        mask: jax.Array,
        ar: jax.Array | None = None,
        segment: jax.Array | None = None,
        cache: dict[str, Cache] | None = None,
        position: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, Any]:
        """Computes the named outputs; `train` turns `drop_path` on (rng "dropout").

        "tokens" are the last layer's tokens, normalised; "features" what is pooled of them and
        projected, "embed" the same at unit length. Bags are `text` and `mask` [B, K, L], and no
        other inputs. `mask` [B, L] is True on real tokens, EOT
        included: lengths, never ids, say so. `ar` int32 [B, L] says what a token sees (`may_see`)
        in a tower that is not causal already. `segment` int32 [B, L] numbers the texts that share a
        row: each begins at position 0 and sees itself alone; there are no "features" of them. With
        a `cache` the texts are the tokens from `position` on, `mask` is of all that the cache
        holds, and there is a new "cache", too.
        """
        bags = text.shape[:2] if text.ndim == 3 else None
        if bags:
            text, mask = (x.reshape(-1, x.shape[2]) for x in (text, mask))
        seen = None
        if self.mask_padding and self.ends_in_padding(ar, segment, cache):
            seen = mask.sum(axis=1, dtype=jnp.int32)
        elif self.causal and cache is None:
            seen = may_see(mask) if self.mask_padding else None
        elif cache is not None or self.mask_padding or ar is not None:
            seen = may_see(mask if cache is not None or self.mask_padding else mask | True, ar)
        append = self.pool in APPENDED and bool(POOLED & set(outputs))
        if append:
            seen = self.seen_of_appended(text, mask)
        if segment is not None:
            own = (segment[:, :, None] == segment[:, None, :])[:, None]
            seen = own if seen is None else seen & own
        begin = position if segment is None else positions_in_segments(segment)
        x = self.embed(text, begin, append)
        x, cache = stack(
            x,
            seen,
            angles=self.angles(x.shape[1], begin),
            dropped=self.dropped(self.depth, train),
            form=self.form,
            cache=cache,
            position=position,
            depth=self.depth,
            heads=self.heads,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            norm=self.norm,
            norm_eps=self.norm_eps,
            causal=self.causal and cache is None,
            attention=self.attention,
            remat=self.remat,
            unroll=self.unroll,
            dtype=self.dtype,
            softcap=self.softcap,
            centred_norms=self.centred_norms,
        )
        norm: Any = lambda x: x  # noqa: E731 (post-norm blocks end with one)
        if self.norm == "pre":
            norm = self.layer_norm("norm_post", self.centred_norms)
        tokens = x[:, :-1] if append else x
        result: dict[str, Any] = {} if cache is None else {"cache": cache}
        if "tokens" in outputs:
            result["tokens"] = norm(tokens)
        if POOLED & set(outputs):
            # The norm is per token, so pooling a single token first gives the same for less.
            if self.pool == "mean":
                pooled = masked_mean(norm(x), mask)
            elif self.pool == "eot":
                pooled = norm(pool_tokens(x, to_first_end(text, mask), self.pool))
            else:
                pooled = norm(x[:, -1] if append else pool_tokens(x, mask, self.pool))
            result |= project(pooled, self.head, self.embed_dim, self.dtype, self.norm_eps)
        if bags:
            result = {name: x.reshape(*bags, *x.shape[1:]) for name, x in result.items()}
        return result

    def ends_in_padding(self, ar: Any, segment: Any, cache: Any) -> bool:
        """Whether a token sees the real tokens, which are the first of its row (not so with tags:
        they have padding before them), but for causality."""
        return not self.tags and (self.causal or ar is None) and segment is None and cache is None

    def embed(
        self, text: jax.Array, position: jax.Array | None = None, append: bool = False
    ) -> jax.Array:
        """[B, L] -> [B, L, W]: token, position and (BERT) type, 1 on tags.

        Positions are counted from `position` on, or are given, as int32 [B, L]. `append` puts a
        class token behind, with a position of its own: [B, L + 1, W].
        """
        factor = self.width**0.5 if self.position in ("sincos", "sincos_t2t") else None
        table = self.position_rows()
        first = self.position_offset + (0 if position is None else position)
        x = self.token_embed(text)
        x = x * factor if factor else x
        if table is not None:
            if jnp.ndim(first):
                positions = table[first]
            else:
                positions = jax.lax.dynamic_slice_in_dim(table, first, text.shape[1])
            x = x + positions.astype(self.dtype)
        if self.token_types:
            types = self.param("type_embed", normal(0.02), (self.token_types, self.width))
            is_tag = np.arange(text.shape[1]) >= self.context_length - self.tags
            x = x + types[is_tag.astype(int) if self.tags else 0].astype(self.dtype)
        if append:
            std = 0.01 if self.pool == "appended" else self.width**-0.5
            token = self.param("class_embed", normal(std), (self.width,))
            token = token * factor if factor else token
            if self.pool == "appended" and table is not None:
                token = token + table[-1]
            token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, self.width))
            x = jnp.concatenate([x, token], axis=1)
        return self.layer_norm("norm_embed")(x) if self.embed_norm else x

    def layer_norm(self, name: str, centred: bool = False) -> nn.Module:
        return layer_norm(self.norm_eps, self.dtype, name, centred, rms=self.rms_norm)

    def angles(self, length: int, begin: jax.Array | None) -> jax.Array | None:
        """RoPE's of `length` tokens, float32 [B or 1, length, d/2]; `begin` is as of `embed`."""
        if not self.rope:
            return None
        positions = jnp.arange(length)[None] + (0 if begin is None else begin)
        if begin is not None and jnp.ndim(begin):  # each token's, but that of an appended one
            positions = jnp.pad(begin, ((0, 0), (0, length - begin.shape[1])), mode="edge")
        return line_angles(positions, self.width // self.heads, self.rope_theta)

    def position_rows(self) -> jax.Array | None:
        """Positions [rows, W]; None: there are none."""
        rows = self.position_offset + self.context_length + (self.pool == "appended")
        shape = (self.positions or rows, self.width)
        if self.position == "sincos":
            return self.param("position_table", lambda key: sincos_1d(*shape))
        if self.position == "sincos_t2t":
            return sincos_1d(*shape, closed=True)
        if self.position == "learned":
            return self.param("position_embed", normal(0.01), shape)
        return None

    def seen_of_appended(self, text: jax.Array, mask: jax.Array) -> jax.Array:
        """bool [B, 1, 1, L + 1], the positions that the appended token (and all others) may see.

        pool="appended", as open_clip's CoCa was trained: id 0 is taken for padding, and the mask
        lies one position too far to the right, so that the first padding is seen and the class
        token is not.
        """
        if self.pool == "class":
            return may_see(jnp.pad(mask, ((0, 0), (0, 1)), constant_values=True))
        seen = mask & (text != 0)
        return jnp.pad(seen, ((0, 0), (1, 0)), constant_values=True)[:, None, None, :]

    def logits(
        self, outputs: tuple[str, ...], tokens: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """ "logits" of the vocabulary for every token, [..., W] -> [..., V]."""
        del outputs, train
        return {"logits": self.mlm(tokens, self.token_embed)}

    def lm_head(self, outputs: tuple[str, ...], train: bool = False) -> dict[str, "LmHead"]:
        """ "lm_head", for losses that compute the logits of some positions only."""
        del outputs, train
        if self.is_initializing():
            self.mlm.hidden(jnp.zeros((1, self.width), self.dtype))
        params = self.mlm.variables["params"]
        return {"lm_head": LmHead(params, self.token_embed.embedding, self.mlm.clone(parent=None))}


def ignores_padding(text: TextTower | ConfigDict) -> bool:
    """Whether a text tower gives the same with less padding: nothing that is kept looks at it."""
    return (text.causal or text.mask_padding) and text.pool not in ("last", "appended")


def to_first_end(text: jax.Array, mask: jax.Array) -> jax.Array:
    """bool [B, L]: the real tokens of a text, int32 [B, L], up to the first that is its end token
    (that with the id of its last): a caption may spell "<|endoftext|>" out, and there
    transformers, OpenAI's CLIP and open_clip pool it."""
    end = jnp.take_along_axis(text, mask.sum(axis=1, keepdims=True) - 1, axis=1)
    is_end = mask & (text == end)
    return jnp.arange(text.shape[1]) <= is_end.argmax(axis=1, keepdims=True)
