"""Towers put together: a batch goes in, the named outputs come out, nothing else is computed."""

from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.models.fusion import Fusion
from mmjax.models.regions import RegionTower
from mmjax.models.resnet import ModifiedResNet
from mmjax.models.text import TextTower
from mmjax.models.tokens import TokenScores
from mmjax.models.vision import VisionTower

IMAGE_OUTPUTS = ("image_tokens", "image_features", "image_embed", "patch_pixels")
TEXT_OUTPUTS = ("text_tokens", "text_features", "text_embed")
FUSED_OUTPUTS = ("fused_tokens", "fused_scores", "caption_scores", "match_logits")
MODEL_OUTPUTS = ("logit_scale", "logit_bias", "words")  # of the model, not of an example


class Multimodal(nn.Module):
    """An image tower and a text tower that meet in one embedding space, with scale and bias, and in
    a fusion where there is one; or one tower alone, the other being None (a BERT, a classifier).
    """

    image: VisionTower | ModifiedResNet | RegionTower | None
    text: TextTower | None
    fusion: Fusion | None
    logit_scale_init: float
    logit_bias_init: float | None

    @nn.compact
    def __call__(
        self,
        batch: Mapping[str, jax.Array],
        outputs: Collection[str],
        train: bool = False,
        given: Mapping[str, jax.Array] | None = None,
    ) -> dict[str, Any]:
        """Computes `outputs` (names of `self.outputs()`) of a batch as in DESIGN's contract.

        Beside it the batch may have `text_ar` int32 [B, L], what a token sees of its text (the rule
        of `may_see`; absent: 1 if the text tower is causal, else 0); `text_segment` int32 [B, L],
        the number of the text where several share a row; for scores, `targets` int32
        [B, K] (-1: none) with `target_places` [B, K] (absent: target k is told by token k); and
        `patch_mask` bool [B, N], patches that are hidden from the image tower. A tower of regions
        reads `image` float32 [B, R, F] and `image_mask` bool [B, R].

        Args:
          given: outputs "image_tokens" and "text_tokens" that are known: no tower runs for them.

        Returns:
          float32 "image_embed", "text_embed" [B, D] of unit length; "image_features",
          "text_features" [B, D], the same before they are scaled to it (the class scores of a
          classifier); "patch_pixels" [B, N, 3 P²] as of the tower; "image_tokens" [B, N, W] and
          "text_tokens" [B, L, W]; "token_logits" as of `token_logits`, of every text token;
          "fused_tokens" [B, L, W], the texts after the fusion; "text_hidden" [B, K, W], what the
          masked-language head makes of the text tokens at the targets' places; these in the compute
          dtype. TokenScores "text_scores" and "fused_scores" of those tokens;
          "caption_scores", the same as "fused_scores" of a fusion that can be causal. float32
          "match_logits" [B]. Of the model: scalars "logit_scale" (multiplicative, e^parameter) and
          "logit_bias", and "words", what "text_hidden" meets to become scores.
        """
        wanted = set(outputs)
        absent = wanted - set(self.outputs())
        if absent:
            raise ValueError(f"this model has no output {min(absent)!r}: {self.outputs()}")
        known: dict[str, Any] = dict(given or {})
        of_image, of_text = (set(names) - known.keys() for names in self.needs(wanted))
        if of_image and isinstance(self.image, RegionTower):
            known |= self.image(batch["image"], of_image)
        elif of_image and isinstance(self.image, VisionTower | ModifiedResNet):
            hidden = {"patch_mask": batch["patch_mask"]} if "patch_mask" in batch else {}
            known |= self.image(batch["image"], raw(of_image), train, **hidden)
        if of_text and self.text is not None:
            known |= self.text(
                batch["text"], batch["text_mask"], raw(of_text), text_ar=batch.get("text_ar"),
                text_segment=batch.get("text_segment"),
            )  # fmt: skip
        for name in ("image_embed", "text_embed"):
            if name in of_image | of_text:
                known[name] = unit_length(known[name.replace("_embed", "_features")])
        if wanted & set(FUSED_OUTPUTS):
            known |= self.fuse(batch, wanted, known["image_tokens"], known["text_tokens"])
        if "text_scores" in wanted:
            known["text_scores"] = self.scores(known["text_tokens"], batch)
        if self.text is not None and "text_hidden" in wanted:
            places = batch.get("target_places")
            known["text_hidden"] = self.text.hidden(known["text_tokens"], places)
        if self.text is not None and "words" in wanted:
            known["words"] = self.text.words()
        if "logit_scale" in wanted:
            init = nn.initializers.constant(self.logit_scale_init)
            known["logit_scale"] = jnp.exp(self.param("logit_scale", init, ()))
        if "logit_bias" in wanted and self.logit_bias_init is not None:
            init = nn.initializers.constant(self.logit_bias_init)
            known["logit_bias"] = self.param("logit_bias", init, ())
        return {name: known[name] for name in wanted}

    def outputs(self) -> tuple[str, ...]:
        """Every output this model can give."""
        result: tuple[str, ...] = ()
        meet = True  # towers without layers are embeddings for the fusion, no towers to compare
        if isinstance(self.image, VisionTower):
            meet &= self.image.depth > 0
            result += IMAGE_OUTPUTS[:3] if self.image.depth else IMAGE_OUTPUTS[:1]
            result += IMAGE_OUTPUTS[3:] * self.image.pixel_head
        elif isinstance(self.image, RegionTower):
            meet = False
            result += IMAGE_OUTPUTS[:1]
        elif self.image is not None:
            result += IMAGE_OUTPUTS[:3]
        if self.text is not None:
            meet &= self.text.depth > 0
            result += TEXT_OUTPUTS if self.text.depth else TEXT_OUTPUTS[:1]
            names = ("token_logits", "text_scores", "text_hidden", "words")
            result += names * self.text.mlm_head
        if self.image is not None and self.text is not None and meet:
            result += MODEL_OUTPUTS[: 1 + (self.logit_bias_init is not None)]
        if self.fusion is not None:
            result += ("fused_tokens", "match_logits")
            if self.text is not None and self.text.mlm_head:
                causal = (
                    self.fusion.style != "bottleneck"
                )  # through which a text sees all of itself
                result += ("fused_scores",) + ("caption_scores",) * causal
        return result

    def inputs(self) -> dict[str, tuple[str, Any]]:
        """Tower → (kind of the modality that it reads, the tower, whose fields say its sizes)."""
        found: dict[str, tuple[str, Any]] = {}
        if self.image is not None:
            regions = isinstance(self.image, RegionTower)
            found["image"] = ("regions" if regions else "image", self.image)
        if self.text is not None:
            found["text"] = ("tags" if self.text.tags else "text", self.text)
        return found

    def needs(self, outputs: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The outputs of the image tower and of the text tower that `outputs` are made of."""
        image, text = set(outputs) & set(IMAGE_OUTPUTS), set(outputs) & set(TEXT_OUTPUTS)
        text |= set(outputs) & {"token_logits"}
        if set(outputs) & set(FUSED_OUTPUTS):
            image, text = image | {"image_tokens"}, text | {"text_tokens"}
        if {"text_scores", "text_hidden"} & set(outputs):
            text |= {"text_tokens"}
        return tuple(sorted(image)), tuple(sorted(text))

    def reads(self, tower: str) -> tuple[str, ...]:
        """The columns of a batch that a tower ("image", "text") reads."""
        if tower == "image":
            seen = isinstance(self.image, RegionTower)
            return ("image", "image_mask" if seen else "patch_mask")
        names = ("text", "text_mask", "text_segment")
        return names if self.text is not None and self.text.causal else (*names, "text_ar")

    def fuse(
        self, batch: Mapping[str, jax.Array], wanted: Collection[str], image: Any, text: Any
    ) -> dict[str, Any]:
        """The wanted ones of FUSED_OUTPUTS from the towers' tokens."""
        assert self.fusion is not None
        assert self.text is not None
        assert isinstance(self.image, VisionTower | RegionTower)
        ar = batch.get("text_ar")
        if ar is None and self.text.causal:
            ar = jnp.ones(text.shape[:2], jnp.int32)
        mask, seen = batch["text_mask"], batch.get("image_mask")
        tokens, images, _ = self.fusion(text, mask, image, image_mask=seen, text_ar=ar)
        result: dict[str, Any] = {"fused_tokens": tokens}
        if {"fused_scores", "caption_scores"} & set(wanted):
            scores = self.scores(tokens, batch)
            result |= {"fused_scores": scores, "caption_scores": scores}
        if "match_logits" in wanted:
            pooled = self.text.pool_tokens(tokens, mask)
            if self.fusion.style != "cross":  # the image's stream has something to say, too
                assert images is not None
                if isinstance(self.image, VisionTower) and self.image.pool == "cls":
                    pooled_image = images[:, 0]
                else:
                    pooled_image = images.mean(
                        axis=1, where=None if seen is None else seen[..., None]
                    )
                pooled = jnp.concatenate([pooled, pooled_image], axis=-1)
            result["match_logits"] = self.fusion.match(pooled)
        return result

    def decode(
        self,
        token: jax.Array,
        place: int | jax.Array,
        cache: Mapping[str, Any],
        images: int,
        image: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Scores float32 [B, V] of what follows `token` [B, 1], the one at `place` of its text.

        Args:
          cache: of all earlier places, as `decoder.empty_cache` begins it.
          images: image tokens that come before the text in the fusion's stream.
          image: "image_tokens", at place 0 only; the cache has them after that.
        """
        assert self.text is not None
        place = jnp.asarray(place, jnp.int32)
        layers = cache["text"]
        length = layers["own"][0].shape[2] if layers else self.text.context_length
        known = jnp.arange(length)[None, :] <= place
        result = self.text(token, known, {"text_tokens"}, cache=layers, place=place)
        tokens, new = result["text_tokens"], {"text": result["cache"], "fusion": cache["fusion"]}
        if self.fusion is not None:
            at = place if image is not None else place + images
            tokens, _, new["fusion"] = self.fusion(
                tokens, known, image, cache=cache["fusion"], place=at
            )
        return self.text.token_logits(tokens[:, -1]).astype(jnp.float32), new

    def scores(self, tokens: jax.Array, batch: Mapping[str, jax.Array]) -> TokenScores:
        """How well the head tells the batch's `targets` from text tokens [B, L, W]."""
        assert self.text is not None
        return self.text.scores(tokens, batch["targets"], batch.get("target_places"))

    def token_logits(self, tokens: jax.Array) -> jax.Array:
        """Scores of the vocabulary for "text_tokens" that were chosen, [..., W] -> [..., V].

        A masked-language loss needs them at its few masked places only:
        `model.apply({"params": params}, tokens, method="token_logits")`.
        """
        if self.text is None or not self.text.mlm_head:
            raise ValueError("this model has no MLM head: model.text.mlm_head is False")
        return self.text.token_logits(tokens)


def raw(names: Collection[str]) -> set[str]:
    """What a tower is asked for: an embedding is its features, scaled to unit length."""
    return {name.replace("_embed", "_features") for name in names}


def unit_length(x: jax.Array) -> jax.Array:
    """[..., D] -> float32 [..., D] of Euclidean length 1."""
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
