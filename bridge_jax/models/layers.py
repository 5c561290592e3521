"""Layers that the towers and the bridge share: float32 parameters, softmax and norms; matrix products in `dtype`."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, UInt32

from bridge_jax.models import rotary
from bridge_jax.models.kernels import affine_tpu, rows
from bridge_jax.models.kernels import attention as kernel
from bridge_jax.types import Array


def _traced_once(init: Callable) -> Callable:
    """Return the initializer, traced once a shape: flax traces that of every parameter at every `apply`."""
    return jax.jit(init, static_argnums=(1, 2))


small_init = _traced_once(nn.initializers.truncated_normal(0.02))  # embeddings, as in BERT and ViT; projection heads
# Scaled by the number of inputs. BERT's 0.02 for every kernel suits a width of 2,500. At S = 128 it would start the
# bridge's four consecutive products at 1/300 of their input, and the bridge would hardly learn.
kernel_init = _traced_once(nn.initializers.lecun_normal())


def dense(
    width: int, dtype: DTypeLike, name: str | None = None, init: Callable = kernel_init, bias: bool = True
) -> nn.Dense:
    """Return an affine map with float32 parameters and products in `dtype`."""
    return nn.Dense(width, dtype=dtype, param_dtype=jnp.float32, kernel_init=init, use_bias=bias, name=name)


class LayerNorm(nn.LayerNorm):
    """Linen's LayerNorm, whose parameters can be read."""

    def parameters(self) -> tuple[Float[Array, "D"], Float[Array, "D"]]:
        """Return scale and shift, once they are initialised."""
        return self.get_variable("params", "scale"), self.get_variable("params", "bias")


def layer_norm(eps: float, dtype: DTypeLike, name: str | None = None, bias: bool = True) -> LayerNorm:
    """Return a LayerNorm. Linen computes its mean and variance in float32 at any `dtype`."""
    return LayerNorm(
        epsilon=eps, dtype=dtype, param_dtype=jnp.float32, use_fast_variance=False, use_bias=bias, name=name
    )


def gelu(x: Array) -> jax.Array:
    """Apply the exact GELU of ViT, DINOv2 and BERT, by erf as in torch; erfc costs more."""
    return x * (1 + jax.lax.erf(x * np.sqrt(0.5).astype(x.dtype))) / 2


def gelu_tanh(x: Array) -> jax.Array:
    """Apply SigLIP's GELU, approximated by tanh."""
    return nn.gelu(x, approximate=True)


def quick_gelu(x: Array) -> jax.Array:
    """Apply the GELU of OpenAI's CLIP, approximated by a sigmoid: x sigmoid(1.702 x)."""
    return x * nn.sigmoid(1.702 * x)


def masked_softmax(logits: Array, mask: Array | None) -> jax.Array:
    """Apply softmax over the last axis in float32; keys where `mask` is False get exactly zero weight."""
    logits = logits.astype(jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, -1e30)
    return nn.softmax(logits, axis=-1)


def masked_mean(states: Float[Array, "B L D"], mask: Bool[Array, "B L"] | None) -> Float[Array, "B D"]:
    """Average the states over the tokens where `mask` is True, in float32."""
    states = states.astype(jnp.float32)
    if mask is None:
        return states.mean(axis=1)
    weight = mask.astype(jnp.float32)[..., None]
    return (states * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1.0)


def grouped(rows_B: Array, g: int) -> Array:
    """Return [B,...] as [G,g,...]: groups of g neighbouring rows."""
    return rows_B.reshape(-1, g, *rows_B.shape[1:])


def l2_normalise(x: Array, eps: float = 1e-6) -> jax.Array:
    """Scale the last axis to length one in float32; a zero vector stays zero, with a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis=-1, keepdims=True), eps**2))


class Dropout(nn.Module):
    """Set a share `rate` of the elements to zero and scale up the rest, as Linen's Dropout does.

    The random bits come from `hashed_bits`, at a fraction of the arithmetic of Linen's Threefry. Together with
    `project` it cut a step of configs/flickr8k.py from 2.86 s to 2.64 s on two cores.
    """

    rate: float

    def __call__(self, x: Array, deterministic: bool) -> jax.Array:
        dropped = round(self.rate * 2**32)
        if deterministic or not dropped:
            return x
        if dropped == 2**32:
            return jnp.zeros_like(x)
        kept = hashed_bits(self.make_rng("dropout"), x.shape) >= np.uint32(dropped)
        return jnp.where(kept, x / (1 - dropped / 2**32), jnp.zeros_like(x))

    def in_kernel(self, deterministic: bool) -> dict[str, Any]:
        """Return the arguments `rate` and `key` with which a kernel drops the same elements."""
        return {} if deterministic or not self.rate else {"rate": self.rate, "key": self.make_rng("dropout")}


def hashed_bits(key: Array, shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Return 32 random bits per element: its position, mixed with the key by lowbias32 (Wellons 2018).

    The bits depend only on key and position, so a sharded array gets the bits of the whole one. They are good enough
    for dropout, not for uses that depend on the quality of the generator.
    """
    first, second = jax.random.key_data(key)
    x = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        x += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride)
        stride *= shape[axis]
    x = _mix(x ^ first)
    return _mix(x + second)


def _mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def split_heads(x_BLD: Float[Array, "B L D"], heads: int) -> Float[Array, "B N L K"]:
    """Split the last axis into heads and move them before the tokens.

    After this one transposition, attention needs only batched matrix products. On two cores, einsums over [B,L,N,K]
    took a third longer, forward and backward (127 ms against 99 ms for 384 pictures of 65 tokens).
    """
    return x_BLD.reshape(*x_BLD.shape[:2], heads, -1).swapaxes(1, 2)


def join_heads(x_BNLK: Float[Array, "B N L K"]) -> Float[Array, "B L D"]:
    """Undo `split_heads`."""
    B, N, L, K = x_BNLK.shape
    return x_BNLK.swapaxes(1, 2).reshape(B, L, N * K)


Affine = Callable[[], tuple[Array, Array]]  # returns a kernel [D,S] and a bias [S]


class AffineMap(nn.Module):
    """The parameters of an affine map, which `project` applies."""

    features: tuple[int, int]  # in, out
    bias: bool = True
    init: Callable = kernel_init

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "D S"], Float[Array, "S"]]:
        bias = self.param("bias", nn.initializers.zeros_init(), self.features[1:]) if self.bias else None
        return self.param("kernel", self.init, self.features), jnp.zeros(self.features[1]) if bias is None else bias


def project(x_BLD: Float[Array, "B L D"], heads: int, *maps: Affine) -> tuple[Float[Array, "B N L K"], ...]:
    """Apply several affine maps to the same states in one product, and split each result into heads.

    Each map keeps its own parameters, so their paths in checkpoints and path rules stay the same.
    """
    kernels, biases = zip(*(affine_map() for affine_map in maps), strict=True)
    kernel_DJS, bias_JS = (jnp.stack(x, axis=-2).astype(x_BLD.dtype) for x in (kernels, biases))
    y_BLJS = jnp.einsum("BLD,DJS->BLJS", x_BLD, kernel_DJS) + bias_JS[None, None]
    return tuple(split_heads(y_BLJS[:, :, j], heads) for j in range(len(maps)))


def project_joined(
    kernels: str, dtype: DTypeLike, x_BLD: Float[Array, "B L D"], *maps: Affine, norm: LayerNorm | None = None
) -> Float[Array, "J B L S"]:
    """Apply several affine maps to the same states, after `norm` if it is given, in one product; heads stay joined.

    `kernels` is `config.blocks.kernels`. Where it allows, norm and gradients are computed in a kernel.
    """
    matrices, biases = (jnp.stack(x) for x in zip(*(affine_map() for affine_map in maps), strict=True))
    matrices_JDS, biases_J1S = matrices.astype(dtype), biases[:, None]
    (B, L, D), (J, _, S) = x_BLD.shape, matrices.shape
    device = rows.device_of(kernels, B, L, affine_tpu.vmem_bytes(L, D, S, J, jnp.dtype(dtype).itemsize))
    if device is not None and norm is not None:
        scale, shift = norm.parameters()
        given = affine_tpu.Maps(matrices_JDS, biases_J1S, scale[None], shift[None])
        return rows.affine(affine_tpu.Form(device, norm.epsilon), x_BLD, given)
    x_BLD = (x_BLD if norm is None else norm(x_BLD)).astype(dtype)
    if device is not None:
        return rows.affine(affine_tpu.Form(device), x_BLD, affine_tpu.Maps(matrices_JDS, biases_J1S))
    return jnp.einsum("BLD,JDS->JBLS", x_BLD, matrices_JDS) + biases_J1S[:, None].astype(dtype)


def affine(
    kernels: str,
    x_BLD: Float[Array, "B L D"],
    width: int,
    dtype: DTypeLike,
    name: str,
    init: Callable = kernel_init,
    norm: LayerNorm | None = None,
) -> Float[Array, "B L S"]:
    """Apply the affine map `dense`, after `norm` if it is given; a kernel computes norm and gradients where it may."""
    B, L, D = x_BLD.shape
    if rows.device_of(kernels, B, L, affine_tpu.vmem_bytes(L, D, width, 1, jnp.dtype(dtype).itemsize)) is None:
        return dense(width, dtype, name, init)(x_BLD if norm is None else norm(x_BLD))
    return project_joined(kernels, dtype, x_BLD, AffineMap((D, width), init=init, name=name), norm=norm)[0]


def attend(
    q_BNQK: Float[Array, "B N Q K"],
    k_BNLK: Float[Array, "B N L K"],
    v_BNLK: Float[Array, "B N L K"],
    mask: Bool[Array, "#B #N #Q L"] | None,
    drop: Callable[[jax.Array], jax.Array],
) -> Float[Array, "B N Q K"]:
    """Average the values by softmax(q k / sqrt(K)); keys where `mask` is False get no weight; `drop` is dropout."""
    logits_BNQL = jnp.einsum("BNQK,BNLK->BNQL", q_BNQK, k_BNLK) / jnp.sqrt(q_BNQK.shape[-1]).astype(q_BNQK.dtype)
    weights_BNQL = drop(masked_softmax(logits_BNQL, mask).astype(v_BNLK.dtype))
    return jnp.einsum("BNQL,BNLK->BNQK", weights_BNQL, v_BNLK)


class SelfAttention(nn.Module):
    """Multi-head self-attention by scaled dot products. All projections have a bias; the keys' only with `key_bias`.

    `mask` is False for keys that are not attended to: [B,L] for all queries alike, or [B,L,L] (query, key). `norm`, if
    it is given, is applied to the states first.
    """

    heads: int
    dtype: jnp.dtype
    dropout: float = 0.0
    key_bias: bool = True
    kernels: str = "plain"  # config.blocks.kernels
    fused: bool = False  # queries, keys and values, in this order, are columns of one kernel `qkv`

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        mask: Bool[Array, "B *_ L"] | None,
        deterministic: bool,
        rotation: rotary.Rotation | None = None,
        norm: LayerNorm | None = None,
    ) -> Float[Array, "B L D"]:
        (B, L, D), drop = x_BLD.shape, Dropout(self.dropout)
        maps = self._fused(D) if self.fused else self._maps(D)
        has_kernel = rotation is None and (mask is None or mask.ndim == 2)
        form = kernel.form_of(self.kernels if has_kernel else "plain", B, (L, L, D), self.heads, self.dtype)
        if form != "plain":
            states = (project_joined(self.kernels, self.dtype, x_BLD, *maps, norm=norm),)
            scale = jnp.float32(1 / np.sqrt(D // self.heads))
            dropped = drop.in_kernel(deterministic)
            attended_BLD, _ = kernel.attend(form, self.heads, states, scale, mask=mask, **dropped)
            return affine(self.kernels, attended_BLD, D, self.dtype, "out")
        x_BLD = x_BLD if norm is None else norm(x_BLD)
        q_BNLK, k_BNLK, v_BNLK = project(x_BLD.astype(self.dtype), self.heads, *maps)
        if rotation is not None:
            q_BNLK, k_BNLK = rotary.rotate(q_BNLK, rotation), rotary.rotate(k_BNLK, rotation)
        if mask is not None:
            mask = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
        out_BNLK = attend(q_BNLK, k_BNLK, v_BNLK, mask, lambda weights: drop(weights, deterministic=deterministic))
        return dense(D, self.dtype, "out")(join_heads(out_BNLK))

    def _maps(self, D: int) -> list[Affine]:
        return [AffineMap((D, D), name != "key" or self.key_bias, name=name) for name in ("query", "key", "value")]

    def _fused(self, D: int) -> list[Affine]:
        kernel_DS, bias_S = AffineMap((D, 3 * D), name="qkv")()
        parts = zip(jnp.split(kernel_DS, 3, axis=1), jnp.split(bias_S, 3), strict=True)
        return [lambda part=part: part for part in parts]


class Mlp(nn.Module):
    """Two affine maps with a GELU between them."""

    hidden: int
    dtype: jnp.dtype
    activation: Callable = gelu

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        y = self.activation(dense(self.hidden, self.dtype, "up")(x))
        return dense(x.shape[-1], self.dtype, "down")(y)

    def parameters(self) -> tuple[Array, Array, Array, Array]:
        """Return kernel and bias of both maps, once they are initialised."""
        up, down = (self.variables["params"][name] for name in ("up", "down"))
        return up["kernel"], up["bias"], down["kernel"], down["bias"]
