"""The block of ViT, CLIP, SigLIP and DINO: each branch normalises its own input, and adds its result to it."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float

from bridge_jax.config import Text, Vision
from bridge_jax.models import rotary
from bridge_jax.models.kernels import mlp_tpu, rows
from bridge_jax.models.layers import Dropout, Mlp, SelfAttention, gelu, layer_norm
from bridge_jax.types import Array


class LayerScale(nn.Module):
    """Multiply by a learned vector (DINOv2)."""

    @nn.compact
    def __call__(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        scale_D = self.param("scale", nn.initializers.ones_init(), (x_BLD.shape[-1],)).astype(x_BLD.dtype)
        return x_BLD * scale_D[None, None]


class PreNormBlock(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`; `layer_scale` scales each branch."""

    cfg: Vision | Text  # heads, mlp_width, norm_eps, dropout
    dtype: jnp.dtype
    activation: Callable = gelu
    layer_scale: bool = False
    key_bias: bool = True
    kernels: str = "plain"  # config.blocks.kernels
    fused_qkv: bool = False

    @nn.compact
    def __call__(
        self,
        x_BLD: Float[Array, "B L D"],
        mask: Bool[Array, "B *_ L"] | None,
        rotation: rotary.Rotation | None,
        deterministic: bool,
    ) -> Float[Array, "B L D"]:
        cfg, dtype = self.cfg, self.dtype
        form = {"key_bias": self.key_bias, "kernels": self.kernels, "fused": self.fused_qkv}
        attention = SelfAttention(cfg.heads, dtype, **form, name="attention")
        y = attention(x_BLD, mask, deterministic, rotation, layer_norm(cfg.norm_eps, dtype, "attention_norm"))
        y = LayerScale(name="attention_scale")(y) if self.layer_scale else y
        x_BLD = x_BLD + Dropout(cfg.dropout)(y, deterministic=deterministic)
        norm = layer_norm(cfg.norm_eps, dtype, "mlp_norm")
        mlp = Mlp(cfg.mlp_width, dtype, self.activation, name="mlp")
        kernel = self._mlp_kernel(x_BLD, deterministic)
        if kernel is None:
            y = mlp(norm(x_BLD))
        else:
            y = rows.mlp(kernel, x_BLD, mlp_tpu.weights(dtype, *norm.parameters(), *mlp.parameters()))
            if kernel.residual:
                return y
        y = LayerScale(name="mlp_scale")(y) if self.layer_scale else y
        return x_BLD + Dropout(cfg.dropout)(y, deterministic=deterministic)

    def _mlp_kernel(self, x_BLD: Array, deterministic: bool) -> mlp_tpu.Form | None:
        """Return the kernel of norm and MLP, or None where they are plain."""
        cfg, (B, L, D) = self.cfg, x_BLD.shape
        needed = mlp_tpu.vmem_bytes(L, D, cfg.mlp_width, jnp.dtype(self.dtype).itemsize)
        device = rows.device_of(self.kernels, B, L, needed)
        ends_branch = not self.layer_scale and (deterministic or not cfg.dropout)
        return device and mlp_tpu.Form(self.activation, cfg.norm_eps, ends_branch, device)
