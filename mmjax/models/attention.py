"""Softmax attention, and which kernel computes it.

"xla" writes the weights [B, heads, L, M] to memory and works anywhere. "splash" (TPU, a Pallas
kernel that JAX ships) and "cudnn" (NVIDIA, bfloat16) keep them on the chip. Both want lengths that
are multiples of something: what is added comes last and no query sees it, so the result is the
same. "auto" takes cuDNN on GPUs in half precision, splash on TPUs from SPLASH_LENGTH tokens on, and
xla elsewhere.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from mmjax.parallel.mesh import BATCH, platform

SPLASH_LENGTH = 1024  # a choice, not a measurement: padding to 128s weighs more on short texts


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None = None,
    causal: bool = False,
    implementation: str = "auto",
    softcap: float = 0.0,
) -> jax.Array:
    """softmax(q·kᵀ / √d)·v for every head.

    Args:
      query: [B, L, heads, d].
      key: [B, M, heads, d].
      value: as `key`.
      mask: bool, broadcastable to [B, heads, L, M], True where a key may be seen; the kernels take
        masks of keys, [B, 1, 1, M]. Or int32 [B]: only the first so many keys of an example may be
        seen. cuDNN is quicker with these.
      causal: a query sees keys up to its own position only (L = M).
      implementation: "auto", "xla", "cudnn" or "splash".
      softcap: logits x become softcap · tanh(x / softcap), as in Gemma 2; 0: they stay. cuDNN has
        none: xla takes its place.

    Returns:
      [B, L, heads, d] in the dtype of `query`.
    """
    kernel = _kernel(query, key) if implementation == "auto" else implementation
    kernel = "xla" if softcap and kernel == "cudnn" else kernel
    of_keys = mask is None or mask.ndim == 1 or mask.shape[1:3] == (1, 1)
    if kernel == "xla" or not of_keys or query.shape[1] == 1:
        mask = None if mask is None else _as_bool(mask, key.shape[1])
        if softcap:
            return _capped(query, key, value, mask, causal, softcap)
        return jax.nn.dot_product_attention(query, key, value, mask=mask, is_causal=causal)
    if kernel == "cudnn":
        return _cudnn(query, key, value, mask, causal)
    return _splash(query, key, value, mask, causal, softcap=softcap)


def _kernel(query: jax.Array, key: jax.Array) -> str:
    """What "auto" takes."""
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    head = query.shape[-1]
    if platform() == "gpu" and half and head <= 128 and head % 8 == 0:
        return "cudnn"
    if platform() == "tpu" and half and key.shape[1] >= SPLASH_LENGTH:
        return "splash"
    return "xla"


def may_see(valid: jax.Array, ar: jax.Array | None = None) -> jax.Array:
    """The mask of one rule: with c = cumsum(ar), query i sees key j if c_j ≤ c_i and j is valid.

    All 0: everyone sees everyone; all 1: causal; 0…01…1: a prefix that is seen whole (as in
    PaliGemma, Beyer et al., 2024). What a query that is padding sees is of no account.

    Args:
      valid: bool [B, L], False on padding.
      ar: int32 [B, L], or None for all 0.

    Returns:
      bool, broadcastable to [B, heads, L, L].
    """
    if ar is None:
        return valid[:, None, None, :]
    c = jnp.cumsum(ar, axis=1)
    return ((c[:, None, :] <= c[:, :, None]) & valid[:, None, :])[:, None]


def _capped(query, key, value, mask, causal, softcap):
    """Attention whose logits, float32, are capped; `jax.nn` has none."""
    logits = jnp.einsum("blhd,bmhd->bhlm", query, key, preferred_element_type=jnp.float32)
    logits = softcap * jnp.tanh(logits * (query.shape[-1] ** -0.5 / softcap))
    seen = jnp.tri(query.shape[1], key.shape[1], dtype=bool) if causal else None
    for allowed in (seen, mask):
        if allowed is not None:
            logits = jnp.where(allowed, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(query.dtype)
    return jnp.einsum("bhlm,bmhd->blhd", weights, value)


def _cudnn(query, key, value, mask, causal):
    """NVIDIA's fused attention; it trains lengths that are multiples of 8 only.

    A boolean mask becomes a bias there, and in jax 0.10 a bias has a gradient [B, 1, L, M] that
    nobody asks for. A causal query sees no padding anyway, and else lengths keep it out.
    """
    length, keys = query.shape[1], key.shape[1]
    query, key, value = (_pad(x, 8) for x in (query, key, value))
    if mask is None and not causal and keys < key.shape[1]:
        mask = jnp.full(key.shape[0], keys, jnp.int32)
    lengths = None
    if mask is not None and mask.ndim == 1:  # a softmax over no keys would not be finite
        mask, lengths = None, jnp.maximum(mask, 1)
    if mask is not None:  # it wants a row for every query
        mask = jnp.pad(mask, ((0, 0),) * 3 + ((0, key.shape[1] - keys),))
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], query.shape[1], key.shape[1]))
    y = jax.nn.dot_product_attention(
        query, key, value, mask=mask, key_value_seq_lengths=lengths, is_causal=causal,
        implementation="cudnn",
    )  # fmt: skip
    return y[:, :length]


def _splash(query, key, value, mask, causal, interpret: bool = False, softcap: float = 0.0):
    """Splash attention on each device's examples and heads: XLA cannot split a kernel by itself."""
    length, keys = query.shape[1], key.shape[1]
    query, key, value = (_pad(x, 128) for x in (query, key, value))
    if mask is None and not causal and keys < key.shape[1]:
        mask = jnp.ones((1, 1, 1, keys), bool)
    if mask is not None:
        mask = jnp.pad(_as_bool(mask, keys), ((0, 0),) * 3 + ((0, key.shape[1] - keys),))
        mask = jnp.broadcast_to(mask, (key.shape[0], *mask.shape[1:]))
    local = functools.partial(
        _splash_on_device, causal=causal, softcap=softcap, interpret=interpret
    )
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        heads = P(BATCH, None, "tensor")
        masks = None if mask is None else P(BATCH)
        local = jax.shard_map(
            local, in_specs=(heads, heads, heads, masks), out_specs=heads, check_vma=False
        )
    return local(query, key, value, mask)[:, :length]


def _splash_on_device(query, key, value, mask, *, causal: bool, softcap: float, interpret: bool):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, heads, keys = query.shape[1], query.shape[2], key.shape[1]
    block = masks.CausalMask((length, keys)) if causal else masks.FullMask((length, keys))
    q, k = (math.gcd(size, 512) for size in (length, keys))
    kernel = splash.make_splash_mha(
        masks.MultiHeadMask([block] * heads),
        block_sizes=splash.BlockSizes(
            block_q=q, block_kv=k, block_q_dkv=q, block_kv_dkv=k, use_fused_bwd_kernel=True
        ),
        head_shards=1, q_seq_shards=1, attn_logits_soft_cap=softcap or None, interpret=interpret,
    )  # fmt: skip
    query = query * np.float32(query.shape[-1] ** -0.5).astype(query.dtype)
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))  # [B, heads, L, d]
    if mask is None:
        return jax.vmap(kernel)(query, key, value).swapaxes(1, 2)
    # Keys with another id than the query's are not seen.
    seen = splash.SegmentIds(
        jnp.ones((query.shape[0], length), jnp.int32), mask[:, 0, 0].astype(jnp.int32)
    )
    return jax.vmap(kernel)(query, key, value, seen).swapaxes(1, 2)


def _pad(x: jax.Array, multiple: int) -> jax.Array:
    """[B, L, …] with zeros up to a multiple in L."""
    added = -x.shape[1] % multiple
    return jnp.pad(x, ((0, 0), (0, added)) + ((0, 0),) * (x.ndim - 2)) if added else x


def _as_bool(mask: jax.Array, keys: int) -> jax.Array:
    """Lengths [B] as a mask of keys [B, 1, 1, M]; another mask as it is."""
    return mask if mask.ndim > 1 else (jnp.arange(keys) < mask[:, None])[:, None, None]
