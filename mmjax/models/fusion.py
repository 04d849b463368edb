"""Where text and image tokens meet: one stream (concat), cross-attention, or bottleneck tokens.

The depth of the towers says when. 0 and 0 is early fusion (ViLT, VisualBERT): the streams meet as
embeddings; full towers and a few layers here are the hybrids (FLAVA, ALBEF, CoCa, MBT); depth 0
here is late fusion with a joint head. The layers are the text tower's in width, heads and form.
"""

from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models.attention import may_see
from mmjax.models.form import Form, form_of
from mmjax.models.graph import Function
from mmjax.models.heads import pool_tokens
from mmjax.models.layers import Block, Cache, Dense, layer_norm, repeat, stack
from mmjax.models.parts import register, sections
from mmjax.models.patches import some_of
from mmjax.models.towers import PAIR
from mmjax.schema import SHAPE_FREE, TRAINING_ONLY
from mmjax.values import COUNT, NATURAL, Range

normal = nn.initializers.normal
# The fusion's layers are the text tower's in all but their number.
OF_TEXT = ("width", "heads", "mlp_dim", "activation", "norm", "norm_eps", "attention", "remat",
           "unroll", "causal", "pool", "tags")  # fmt: skip


@register("concat", "cross", "bottleneck")
class Fusion(nn.Module):
    """Text tokens [B, L, W] and image tokens [B, N, W'] -> both, each having seen the other.

    "concat": both are one stream, told apart by a type embedding. "cross": the texts also attend
    to the image tokens, which stay as they are (Li et al., 2021, ALBEF). "bottleneck": each has
    layers of its own and sees the other through a few shared tokens, the mean of what both made of
    them (Nagrani et al., 2021, MBT). The `style` is the kind of the part; the fields in `OF_TEXT`
    are the text tower's.

    Attributes:
      of: The two towers whose tokens meet, the image's first.
      depth: Number of fusion layers, of the text tower's shape; 0: only a joint head; if both
        towers have depth 0, these are all the layers (early fusion).
      n_bottlenecks: bottleneck: how many tokens both streams share.
      image_dropout: Share of the image tower's tokens that the fusion does not see in training,
        the class token apart (OpenVision 2, Liu et al., 2025: 0.65).
    """

    width: int
    heads: int
    mlp_dim: int
    activation: str
    norm: str
    norm_eps: float
    attention: str
    remat: str
    unroll: bool
    causal: bool  # the text
    pool: str  # of the text tower
    tags: int  # of the text tower
    form: Form  # of the text tower
    class_token: bool  # of the image tower
    dtype: jnp.dtype
    style: str
    of: tuple[str, str] = PAIR
    depth: Annotated[int, NATURAL] = 6
    n_bottlenecks: Annotated[int, COUNT] = 4
    image_dropout: Annotated[float, SHAPE_FREE, TRAINING_ONLY, Range(0, below=1)] = 0.0

    DERIVED: ClassVar = (*OF_TEXT, "form", "style", "class_token")
    SMOKE: ClassVar = {"depth": lambda depth: min(depth, 2)}

    @classmethod
    def derived(cls, spec: ConfigDict, model: ConfigDict) -> dict[str, Any]:
        image, text = (model[part] for part in spec.of)
        class_token = image.get("pool", "") in ("cls", "map_cls")  # a token beside the patches
        of_text = {**{name: text[name] for name in OF_TEXT}, "form": form_of(text)}
        return {"style": spec.kind, "class_token": class_token, **of_text}

    @classmethod
    def check(cls, name: str, spec: ConfigDict, model: ConfigDict) -> None:
        key = f"config.model.{name}"
        absent = [part for part in spec.of if part not in sections(model)]
        if len(spec.of) != 2 or absent:
            raise UserError(
                f"{key}.of={spec.of!r} names the two towers that meet, an image's and a text's"
                + (f", and the model has no part {absent[0]!r}." if absent else ".")
            )
        image, text = (model[part] for part in spec.of)
        if image.kind in ("resnet", "convnext"):
            raise UserError(
                f"{key} fuses the tokens of a vision transformer: set config.model.{spec.of[0]}."
                "kind='vit'."
            )
        if "vocab_size" not in text:
            raise UserError(f"{key}.of={spec.of!r}: the second part should be a text tower.")
        if spec.kind != "concat" and not spec.depth:
            raise UserError(
                f"{key}.depth=0 is a joint head on both towers; kind={spec.kind!r} has no such "
                f"form: set {key}.kind='concat'."
            )

    def setup(self):
        self.match = MatchHead(self.dtype)

    def functions(self, name: str) -> tuple[Function, ...]:
        image, text = self.of
        reads = {
            "text": f"{text}/tokens", "text_mask": f"{text}_mask",
            "image": f"{image}/tokens", "image_mask": f"{image}_mask",
        }  # fmt: skip
        if self.style != "bottleneck":  # through which a text sees all of itself
            reads["text_ar"] = f"{text}_ar"
        return (Function(name, "outputs", tuple(reads.items()), ("tokens", "match")),)

    def outputs(
        self,
        outputs: tuple[str, ...],
        text: jax.Array,
        text_mask: jax.Array,
        image: jax.Array,
        image_mask: jax.Array | None = None,
        text_ar: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Computes "tokens" [B, L, W], the texts after the fusion, and "match" float32 [B], the
        logit of whether text and image belong together. `train` leaves out images' tokens (rng
        "dropout")."""
        if train and self.image_dropout:
            image, image_mask = self.drop_tokens(image, image_mask)
        if text_ar is None and self.causal:
            text_ar = jnp.ones(text.shape[:2], jnp.int32)
        tokens, images, _ = self(text, text_mask, image, image_mask=image_mask, text_ar=text_ar)
        result = {"tokens": tokens}
        if "match" in outputs:
            pooled = pool_tokens(tokens, text_mask, self.pool)
            if self.style != "cross":  # the image's stream has something to say, too
                assert images is not None
                if self.class_token:
                    pooled_image = images[:, 0]
                else:
                    seen = None if image_mask is None else image_mask[..., None]
                    pooled_image = images.mean(axis=1, where=seen)
                pooled = jnp.concatenate([pooled, pooled_image], axis=-1)
            result["match"] = self.match(pooled)
        return result

    def drop_tokens(
        self, image: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Tokens [B, N, W] and their mask -> a random share of them, in order."""
        first = int(self.class_token)
        rows, count = image.shape[0], image.shape[1] - first
        kept = first + some_of(self.make_rng("dropout"), rows, count, 1 - self.image_dropout)
        kept = jnp.pad(kept, ((0, 0), (first, 0)))
        image = jnp.take_along_axis(image, kept[:, :, None], axis=1)
        return image, None if mask is None else jnp.take_along_axis(mask, kept, axis=1)

    @nn.compact
    def __call__(
        self,
        text: jax.Array,
        text_mask: jax.Array,
        image: jax.Array | None,
        *,
        image_mask: jax.Array | None = None,
        text_ar: jax.Array | None = None,
        cache: dict[str, Cache] | None = None,
        position: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None, dict[str, Cache] | None]:
        """The fused text tokens [B, L, W], image tokens [B, N, W], and the new cache.

        Args:
          text, image: tokens of the towers; their widths may differ.
          text_mask, image_mask: bool [B, L] and [B, N], False on padding; None: there is none.
          text_ar: int32 [B, L], what a text token sees of the texts (`may_see`; images always).
          cache: for generation by "concat" and "cross": `text` is what comes at `position` and
            after; the images are given at position 0 only, their mask always. A token sees those
            before it.
        """
        if image is not None and image.shape[-1] != self.width:
            image = Dense(self.width, dtype=self.dtype, name="image_proj")(image)
        if self.style == "cross":
            if cache:
                assert position is not None
                mask = before(position, 0, cache)
            else:
                mask = self.seen(0, text_mask, text_ar)
            of_image = None if image_mask is None else may_see(image_mask)
            text, cache = self.stack(text, mask, image, cache, position, of_image)
        elif self.style == "concat":
            text, image, cache = self.concat(
                text, text_mask, image, image_mask, text_ar, cache, position
            )
        else:
            text, image = self.bottleneck(text, text_mask, image, image_mask)
        if self.norm == "pre":
            norm = layer_norm(self.norm_eps, self.dtype, "norm_post", rms=self.form.rms_norm)
            text = norm(text)
            if image is not None and self.style != "cross":
                image = norm(image)
        return text, image, cache

    def concat(self, text, text_mask, image, image_mask, text_ar, cache, position):
        """Images come first, so that a causal text sees all of its image, and not it the text."""
        types = self.param("type_embed", normal(0.02), (2, self.width)).astype(self.dtype)
        text, images = text + types[0], 0 if image is None else image.shape[1]
        x = text if image is None else jnp.concatenate([image + types[1], text], axis=1)
        if cache:
            mask = before(position, images, cache)
            if image_mask is not None:
                later = mask.shape[-1] - image_mask.shape[1]
                keys = jnp.pad(image_mask, ((0, 0), (0, later)), constant_values=True)
                mask &= keys[:, None, None]
        elif image_mask is None:
            mask = self.seen(images, text_mask, text_ar)
        else:
            ar = None if text_ar is None else jnp.pad(text_ar, ((0, 0), (images, 0)))
            mask = may_see(jnp.concatenate([image_mask, text_mask], axis=1), ar)
        x, cache = self.stack(x, mask, None, cache, position, None)
        return x[:, images:], None if image is None else x[:, :images], cache

    def bottleneck(self, text, text_mask, image, image_mask):
        rows, shape = text.shape[0], (self.n_bottlenecks, self.width)
        shared = self.param("bottleneck_embed", normal(0.02), shape).astype(self.dtype)
        shared = jnp.broadcast_to(shared, (rows, *shape))

        layers = repeat(
            BottleneckBlock, self.depth, self.remat, self.unroll, fields=self.block_fields()
        )
        masks = (
            self.seen(self.n_bottlenecks, text_mask),
            None if image_mask is None else may_see(_after(self.n_bottlenecks, image_mask)),
        )
        (text, image, _), _ = layers((text, image, shared), masks)
        return text, image

    def seen(self, first: int, mask: jax.Array, ar: jax.Array | None = None) -> jax.Array:
        """What tokens see of a stream, of `first` tokens that all see and then the texts, as
        `attend` takes it: lengths where that is all there is to say, which cuDNN wants."""
        if ar is None and not self.tags:  # tags have padding before them
            return first + mask.sum(axis=1, dtype=jnp.int32)
        return may_see(
            _after(first, mask), None if ar is None else jnp.pad(ar, ((0, 0), (first, 0)))
        )

    def stack(self, x, mask, context, cache, position, context_mask):
        return stack(
            x, mask, context=context, cache=cache, position=position, remat=self.remat,
            unroll=self.unroll, context_mask=context_mask, **self.block_fields(),
        )  # fmt: skip

    def block_fields(self) -> dict[str, Any]:
        names = ("depth", "heads", "mlp_dim", "activation", "norm", "norm_eps", "attention",
                 "form")  # fmt: skip
        return {"causal": False, "dtype": self.dtype, **{n: getattr(self, n) for n in names}}


class BottleneckBlock(nn.Module):
    """A block for each stream, over its own tokens and the shared ones, which are then averaged."""

    fields: Any  # those of Block

    @nn.compact
    def __call__(self, streams, masks, *unused):
        del unused
        *streams, shared = streams
        count = shared.shape[1]
        results = [
            Block(**self.fields, name=name)(jnp.concatenate([shared, x], axis=1), mask)[0]
            for name, x, mask in zip(("text", "image"), streams, masks, strict=True)
        ]
        shared = sum(x[:, :count] for x in results) / len(results)
        return (*(x[:, count:] for x in results), shared), None


class MatchHead(nn.Module):
    """Do text and image belong together? [B, W] -> the logit [B], by BERT's pooler and a layer."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pooled: jax.Array) -> jax.Array:
        def dense(width: int, name: str) -> Dense:
            init = normal(pooled.shape[-1] ** -0.5)
            return Dense(width, dtype=self.dtype, kernel_init=init, name=name)

        y = jnp.tanh(dense(pooled.shape[-1], "dense")(pooled))
        return dense(1, "score")(y)[:, 0].astype(jnp.float32)


def _after(first: int, mask: jax.Array) -> jax.Array:
    """bool [B, L] -> [B, first + L], True on what is added."""
    return jnp.pad(mask, ((0, 0), (first, 0)), constant_values=True)


def before(position: jax.Array, images: int, cache: dict[str, Cache]) -> jax.Array:
    """The mask [1, 1, 1 or more, M] of tokens at `position` and after: each sees what came before
    it, and the `images` at the beginning see each other."""
    keys = jnp.arange(cache["own"][0].shape[2])
    queries = position + jnp.arange(images + 1)
    return (keys <= jnp.maximum(queries, images - 1)[:, None])[None, None]
