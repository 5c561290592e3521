"""BRIDGE: two towers, the interaction layers between them, and the heads.

The passes, in the order of the data:

    lower     pixels, ids -> both towers' states where they first meet
    unimodal  lower -> an embedding of each side alone, which retrieval uses
    fused     lower -> embeddings, match logit, states and attention of each pair, fused jointly
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, UInt8

from bridge_jax.config import Config, objectives
from bridge_jax.models import layers, segments
from bridge_jax.models.decoder import Decoder, Memory
from bridge_jax.models.heads import Heads
from bridge_jax.models.interaction import Interaction
from bridge_jax.models.placement import meeting_blocks
from bridge_jax.models.token_similarity import QueryKey, token_similarity
from bridge_jax.models.towers import normalise, tower_class
from bridge_jax.types import Array, Batch, Fused, Lower


class BridgeModel(nn.Module):
    """The whole model. Parameters live under `vision/`, `text/`, `bridge/layer_<q>/`, `heads/` and `decoder/`."""

    cfg: Config

    def setup(self):
        cfg = self.cfg
        self.dtype = jnp.dtype(cfg.compute_dtype)
        self.vision = tower_class("vision", cfg.vision.tower)(cfg.vision, self.dtype, cfg.blocks)
        self.text = tower_class("text", cfg.text.tower)(cfg.text, self.dtype, cfg.blocks)
        self.bridge = InteractionLayers(cfg, self.dtype)
        self.heads = Heads(cfg)
        if cfg.decoder is not None:
            self.decoder = Decoder(cfg.decoder, cfg.text.vocab_size, cfg.text.length, self.dtype, cfg.blocks)
        self.image_after, self.text_after = meeting_blocks(cfg)  # layer q follows block image_after[q], text_after[q]
        # With placement "after", or with no bridge at all, the final norm belongs to the lower pass.
        self.finish_below = cfg.bridge.placement == "after" or not self.image_after

    def lower_image(
        self,
        images: UInt8[Array, "B H W 3"],
        masked: Bool[Array, "B patches"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B P D"]:
        """Run the image tower through its first bridged block; the mask token replaces patches where `masked`."""
        stop = self.image_after[0] + 1 if self.image_after else self.cfg.vision.depth
        states = self.vision.embed(normalise(images, self.cfg), masked)
        states = self.vision.blocks(states, 0, stop, deterministic)
        return self.vision.finish(states) if self.finish_below else states

    def lower_text(
        self, ids: Int[Array, "B T"], mask: Bool[Array, "B T"], deterministic: bool = True
    ) -> Float[Array, "B T D"]:
        """Run the text tower through its first bridged block."""
        stop = self.text_after[0] + 1 if self.text_after else self.cfg.text.depth
        states = self.text.blocks(self.text.embed(ids, deterministic), mask, 0, stop, deterministic)
        return self.text.finish(states) if self.finish_below else states

    def finish_image(self, lower_BPD: Float[Array, "B P D"], deterministic: bool = True) -> Float[Array, "B P D"]:
        """Run the rest of the image tower without interaction."""
        if self.finish_below:
            return lower_BPD
        depth = self.cfg.vision.depth
        return self.vision.finish(self.vision.blocks(lower_BPD, self.image_after[0] + 1, depth, deterministic))

    def finish_text(
        self, lower_BTD: Float[Array, "B T D"], mask: Bool[Array, "B T"], deterministic: bool = True
    ) -> Float[Array, "B T D"]:
        """Run the rest of the text tower without interaction."""
        if self.finish_below:
            return lower_BTD
        depth = self.cfg.text.depth
        return self.text.finish(self.text.blocks(lower_BTD, mask, self.text_after[0] + 1, depth, deterministic))

    def unimodal_image(self, lower_BPD: Float[Array, "B P D"], deterministic: bool = True) -> Float[Array, "B E"]:
        """Embed pictures alone: average the finished states of all P tokens, project, scale to length one."""
        return self.heads.unimodal_image(layers.masked_mean(self.finish_image(lower_BPD, deterministic), None))

    def unimodal_text(
        self, lower_BTD: Float[Array, "B T D"], mask: Bool[Array, "B T"], deterministic: bool = True
    ) -> Float[Array, "B E"]:
        """Embed captions alone: average the finished states of the real tokens, project, scale to length one."""
        return self.heads.unimodal_text(layers.masked_mean(self.finish_text(lower_BTD, mask, deterministic), mask))

    def fused(self, lower: Lower, deterministic: bool = True) -> Fused:
        """Run the upper towers with the interaction; row i of `lower.image` meets row i of `lower.text`.

        The embeddings pool the *updated* states, not the last block's input (docs/method.md 5.4). If a row has k
        pictures, [B,k,P,D], the tower's blocks see one at a time; the interaction and the pooling see all kP tokens.
        """
        (image, text), mask, attention = (lower.image, lower.text), lower.text_mask, []
        for group in segments.equal_groups(self):
            (image, text), weights = segments.run_group(self, group, (image, text), mask, deterministic)
            attention += weights
        if not self.finish_below:
            image, text = self.vision.finish(image), self.text.finish(text)
        image = image.reshape(image.shape[0], -1, image.shape[-1])  # not B: an export leaves the batch size open
        image_BE = self.heads.fused_image(layers.masked_mean(image, None))
        text_BE = self.heads.fused_text(layers.masked_mean(text, mask))
        return Fused(
            image=image_BE,
            text=text_BE,
            itm_logit=self.heads.itm(text_BE, image_BE) + self._token_match_logit(lower),
            image_states=image,
            text_states=text,
            text_over_image=tuple(weights for weights, _ in attention if weights is not None),
            image_over_text=tuple(weights for _, weights in attention if weights is not None),
        )

    def compared(self, lower: Lower) -> tuple[QueryKey, QueryKey]:
        """Return queries and keys of the first interaction layer: text over image, then image over text."""
        return self.bridge.layers[0](lower.image, lower.text, lower.text_mask, True, compare=True)

    def _token_match_logit(self, lower: Lower) -> Float[Array, "B"] | float:
        """Return the part of the match logit that comes from heads over the token similarity; 0 without such a head."""
        heads = [head for name, head in self.heads.by_loss.items() if "compared" in objectives.needs(name).passes]
        if not heads:
            return 0.0
        similarity_B = token_similarity(*self.compared(lower), lower.text_mask)
        return sum(head(similarity_B) for head in heads)

    def segment(
        self, q: int, states: tuple[jax.Array, jax.Array], mask: Bool[Array, "B T"], deterministic: bool
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array | None, jax.Array | None]]:
        """Run interaction layer q, then the tower blocks before layer q + 1; return the states and q's attention."""
        image, text, text_over_image, image_over_text = self.bridge.layers[q](*states, mask, deterministic)
        image_blocks, text_blocks = segments.blocks_after(self, q)
        image_start, text_start = self.image_after[q] + 1, self.text_after[q] + 1
        pictures = image.reshape(-1, *image.shape[-2:])
        pictures = self.vision.blocks(pictures, image_start, image_start + image_blocks, deterministic)
        text = self.text.blocks(text, mask, text_start, text_start + text_blocks, deterministic)
        return (pictures.reshape(image.shape), text), (text_over_image, image_over_text)

    def memory(self, lower: Lower, deterministic: bool = True) -> Memory:
        """Return the decoder's input: finished states of the picture alone, or of both sides after the interaction."""
        if self.decoder.cfg.reads == "image":
            return self.decoder.read(self.finish_image(lower.image, deterministic))
        fused = self.fused(lower, deterministic)
        return self.decoder.read(fused.image_states, (fused.text_states, lower.text_mask))

    def touch(self, images: Array, ids: Array, mask: Array) -> None:
        """Run every part once, so that `init` makes every parameter that an experiment uses."""
        lower = Lower(image=self.lower_image(images), text=self.lower_text(ids, mask), text_mask=mask)
        if self.cfg.vision.mask_token:
            self.lower_image(images, jnp.zeros((len(images), lower.image.shape[1] - self.vision.prefix), bool))
        self.unimodal_image(lower.image)
        self.unimodal_text(lower.text, mask)
        fused = self.fused(lower)
        for name in self.heads.by_loss:
            needs = objectives.needs(name)
            k = needs.pictures(self.cfg) if needs.pictures else 1
            pairs, pairs_mask = jax.tree.map(lambda rows, k=k: jnp.repeat(rows, k, axis=0), (fused, mask))
            shapes = needs.fields.shapes(self.cfg) if needs.fields else {}
            extras = {field: jnp.zeros((len(ids), *row.shape), row.dtype) for field, row in shapes.items()}
            batch = Batch(jnp.arange(len(ids)), mask, images=images, ids=ids, extras=extras)
            assert needs.output is not None, name
            needs.output(self, objectives.Inputs(batch, lower, pairs, pairs_mask, True, deterministic=True))
        if self.cfg.decoder is not None:
            self.decoder(ids[:, :-1], self.memory(lower))


class InteractionLayers(nn.Module):
    """The interaction layers; their parameters are stored one by one, under `layer_<q>`."""

    cfg: Config
    dtype: jnp.dtype

    def setup(self):
        settings = self.cfg.bridge, self.dtype, self.cfg.blocks.kernels
        self.layers = [Interaction(*settings, name=f"layer_{q}") for q in range(self.cfg.bridge.layers)]
