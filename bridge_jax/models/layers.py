"""Layers the towers and the bridge share. float32 parameters, softmax and norms; matrix products in `dtype`."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt32

from bridge_jax.config import Blocks, Text, Vision
from bridge_jax.models import rotary

small_init = nn.initializers.truncated_normal(0.02)  # of embeddings, as BERT and ViT have them, and of projections
# Scaled by the inputs. BERT's 0.02 for every kernel suits a width of 2,500: the bridge's four products in a row would
# start at 1/300 of their input at S = 128, and it would hardly learn.
kernel_init = nn.initializers.lecun_normal()


def dense(
    width: int, dtype: jnp.dtype, name: str | None = None, init: Callable = kernel_init, bias: bool = True
) -> nn.Dense:
    """Return an affine map, float32 parameters and products in `dtype`."""
    return nn.Dense(width, dtype=dtype, param_dtype=jnp.float32, kernel_init=init, use_bias=bias, name=name)


def layer_norm(eps: float, dtype: jnp.dtype, name: str | None = None, bias: bool = True) -> nn.LayerNorm:
    """Return a LayerNorm. Linen computes its mean and variance in float32 whatever `dtype` is."""
    return nn.LayerNorm(
        epsilon=eps, dtype=dtype, param_dtype=jnp.float32, use_fast_variance=False, use_bias=bias, name=name
    )


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU that ViT, DINOv2 and BERT were trained with, by erf as torch writes it; erfc costs more."""
    return x * (1 + jax.lax.erf(x * np.sqrt(0.5).astype(x.dtype))) / 2


def gelu_tanh(x: jax.Array) -> jax.Array:
    """The GELU by tanh that SigLIP was trained with."""
    return nn.gelu(x, approximate=True)


def quick_gelu(x: jax.Array) -> jax.Array:
    """The GELU by a sigmoid, x sigmoid(1.702 x), that OpenAI's CLIP was trained with."""
    return x * nn.sigmoid(1.702 * x)


def masked_softmax(logits: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Softmax over the last axis in float32; keys where `mask` is False get exactly zero weight."""
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


def grouped(rows_B: jax.Array, g: int) -> jax.Array:
    """Return [B,...] as [G,g,...]: groups of g neighbouring rows."""
    return rows_B.reshape(-1, g, *rows_B.shape[1:])


def l2_normalise(x: jax.Array, eps: float = 1e-6) -> jax.Array:
    """Scale the last axis to length one in float32; a zero vector stays zero, with a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis=-1, keepdims=True), eps**2))


class Dropout(nn.Module):
    """Zero a share `rate` of the elements and scale up the rest, as Linen's Dropout does.

    Its random bits are `hashed_bits`, a fraction of the arithmetic of Linen's Threefry. With `project`, a step of
    configs/flickr8k.py takes 2.64 s on two cores where it took 2.86 s.
    """

    rate: float

    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        dropped = round(self.rate * 2**32)
        if deterministic or not dropped:
            return x
        if dropped == 2**32:
            return jnp.zeros_like(x)
        kept = hashed_bits(self.make_rng("dropout"), x.shape) >= np.uint32(dropped)
        return jnp.where(kept, x / (1 - dropped / 2**32), jnp.zeros_like(x))


def hashed_bits(key: jax.Array, shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Return 32 random bits an element: its position, mixed with the key by lowbias32 (Wellons 2018).

    A function of key and position alone, so that a sharded array gets the bits of a whole one. Good enough to drop
    elements by, and no more: not for numbers that a seed's quality matters to.
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
    """Cut the last axis into heads, and put them before the tokens.

    One transposition here, and the products of attention are plain batched ones. On two cores einsums over [B,L,N,K]
    took a third longer, forward and backward (127 ms against 99 ms for 384 pictures of 65 tokens).
    """
    return x_BLD.reshape(*x_BLD.shape[:2], heads, -1).swapaxes(1, 2)


def join_heads(x_BNLK: Float[Array, "B N L K"]) -> Float[Array, "B L D"]:
    """Undo `split_heads`."""
    B, N, L, K = x_BNLK.shape
    return x_BNLK.swapaxes(1, 2).reshape(B, L, N * K)


def run_blocks(
    how: Blocks, blocks: Sequence[nn.Module], states: jax.Array, *args: Any, each: Sequence[Any] | None = None
) -> jax.Array:
    """Run equal blocks one after the other: states = block(states, *args), the last of which is `deterministic`.

    In what blocks of equal parameters differ, `each` has a value for each, which comes right behind the states.
    """
    own = [()] * len(blocks) if each is None else [(value,) for value in each]
    if not blocks or blocks[0].is_initializing():
        for block, values in zip(blocks, own, strict=True):
            states = block(states, *values, *args)
        return states
    module = blocks[0].clone(parent=None, name=None)

    def run(states: Any, given: tuple[Any, dict[str, jax.Array], tuple[Any, ...]]) -> tuple[Any, None]:
        params, rngs, values = given
        return module.apply({"params": params}, states, *values, *args, rngs=rngs), None

    keys = [dropout_key(block, args[-1]) for block in blocks]
    given = [(block.variables["params"], key, values) for block, key, values in zip(blocks, keys, own, strict=True)]
    return run_equal(how, run, states, given)[0]


def dropout_key(module: nn.Module, deterministic: bool) -> dict[str, jax.Array]:
    """Return a module's own `rngs`, none where nothing is dropped."""
    return {} if deterministic else {"dropout": module.make_rng("dropout")}


REMAT = {  # config.blocks.remat -> what is kept for the backward pass besides the states between the parts
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # products with parameters, not attention's own
    "full": jax.checkpoint_policies.nothing_saveable,
}


def run_equal(how: Blocks, run: Callable[..., Any], states: Any, given: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Fold `states, found = run(states, given[i])` over equal parts of the model; return the states and what was found.

    The parameters in `given` are stored part by part whatever `how` says, and the numbers are the same. `scan` stacks
    them when the program is traced and compiles one part instead of all: for a TPU v5e 4x4, 12 + 12 blocks of width
    768 compiled in 58 s where the loop took 598 s. `remat` computes again in the backward pass what it does not keep.
    """
    if how.remat != "none":
        run = jax.checkpoint(run, prevent_cse=not how.scan, policy=REMAT[how.remat])
    if how.scan and len(given) > 1:
        states, stacked = jax.lax.scan(run, states, jax.tree.map(lambda *leaves: jnp.stack(leaves), *given))
        return states, [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(len(given))]
    found = []
    for one in given:
        states, last = run(states, one)
        found.append(last)
    return states, found


class Projection(nn.Module):
    """The parameters of an affine map, for `project`."""

    features: tuple[int, int]  # in, out
    bias: bool = True

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "D S"], Float[Array, "S"]]:
        bias = self.param("bias", nn.initializers.zeros_init(), self.features[1:]) if self.bias else None
        return self.param("kernel", kernel_init, self.features), jnp.zeros(self.features[1]) if bias is None else bias


def project(x_BLD: Float[Array, "B L D"], heads: int, *maps: Projection) -> tuple[Float[Array, "B N L K"], ...]:
    """Apply several affine maps to the same states in one product, each result cut into heads.

    The parameters stay apart, as every checkpoint and rule has them.
    """
    kernels, biases = zip(*(one() for one in maps), strict=True)
    kernel_DJS, bias_JS = (jnp.stack(x, axis=-2).astype(x_BLD.dtype) for x in (kernels, biases))
    y_BLJS = jnp.einsum("BLD,DJS->BLJS", x_BLD, kernel_DJS) + bias_JS
    return tuple(split_heads(y_BLJS[:, :, j], heads) for j in range(len(maps)))


def attend(
    q_BNQK: Float[Array, "B N Q K"],
    k_BNLK: Float[Array, "B N L K"],
    v_BNLK: Float[Array, "B N L K"],
    mask: Bool[Array, "B #N #Q L"] | None,
    drop: Callable[[jax.Array], jax.Array],
) -> Float[Array, "B N Q K"]:
    """Average the values by softmax(q k / sqrt(K)); keys where `mask` is False get no weight, `drop` drops weights."""
    logits_BNQL = jnp.einsum("BNQK,BNLK->BNQL", q_BNQK, k_BNLK) / jnp.sqrt(q_BNQK.shape[-1]).astype(q_BNQK.dtype)
    weights_BNQL = drop(masked_softmax(logits_BNQL, mask).astype(v_BNLK.dtype))
    return jnp.einsum("BNQL,BNLK->BNQK", weights_BNQL, v_BNLK)


class SelfAttention(nn.Module):
    """Multi-head self-attention: scaled dot product, a bias in every projection but, without `key_bias`, the keys'.

    `mask` is False where a key is not attended to: [B,L] for all queries alike, or [B,L,L] (query, key).
    """

    heads: int
    dtype: jnp.dtype
    dropout: float = 0.0
    key_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        mask: Bool[Array, "B *_ L"] | None,
        deterministic: bool,
        rotation: rotary.Rotation | None = None,
    ) -> Float[Array, "B L D"]:
        D = x_BLD.shape[-1]
        maps = (Projection((D, D), name != "key" or self.key_bias, name=name) for name in ("query", "key", "value"))
        q_BNLK, k_BNLK, v_BNLK = project(x_BLD.astype(self.dtype), self.heads, *maps)
        if rotation is not None:
            q_BNLK, k_BNLK = rotary.rotate(q_BNLK, rotation), rotary.rotate(k_BNLK, rotation)
        if mask is not None:
            mask = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
        drop = Dropout(self.dropout)
        out_BNLK = attend(q_BNLK, k_BNLK, v_BNLK, mask, lambda weights: drop(weights, deterministic=deterministic))
        return dense(D, self.dtype, "out")(join_heads(out_BNLK))


class Mlp(nn.Module):
    """Two affine maps with a GELU between them."""

    hidden: int
    dtype: jnp.dtype
    activation: Callable = gelu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.activation(dense(self.hidden, self.dtype, "up")(x))
        return dense(x.shape[-1], self.dtype, "down")(y)


class LayerScale(nn.Module):
    """Multiply by a learned vector (DINOv2)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.param("scale", nn.initializers.ones_init(), (x.shape[-1],)).astype(x.dtype)


class PreNormBlock(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`; each branch scaled where `layer_scale` is on."""

    cfg: Vision | Text  # heads, mlp_width, norm_eps, dropout
    dtype: jnp.dtype
    activation: Callable = gelu
    layer_scale: bool = False
    key_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        mask: Bool[Array, "B *_ L"] | None,
        rotation: rotary.Rotation | None,
        deterministic: bool,
    ) -> Float[Array, "B L D"]:
        cfg, dtype = self.cfg, self.dtype
        attention = SelfAttention(cfg.heads, dtype, key_bias=self.key_bias, name="attention")
        y = attention(layer_norm(cfg.norm_eps, dtype, "attention_norm")(x_BLD), mask, deterministic, rotation)
        y = LayerScale(name="attention_scale")(y) if self.layer_scale else y
        x_BLD = x_BLD + Dropout(cfg.dropout)(y, deterministic=deterministic)
        y = layer_norm(cfg.norm_eps, dtype, "mlp_norm")(x_BLD)
        y = Mlp(cfg.mlp_width, dtype, self.activation, name="mlp")(y)
        y = LayerScale(name="mlp_scale")(y) if self.layer_scale else y
        return x_BLD + Dropout(cfg.dropout)(y, deterministic=deterministic)
