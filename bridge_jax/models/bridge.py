"""BRIDGE: two towers, the interaction layers between them, and the heads.

The passes, in the order of the data:

    lower     pixels, ids -> both towers' states where they first meet
    unimodal  lower -> embeddings of each side alone (what retrieval uses)
    fused     lower -> embeddings, match logit, states and attention of a pair that was really fused
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from bridge_jax.config import Config, objectives
from bridge_jax.models import layers, segments
from bridge_jax.models.decoder import Decoder, Memory
from bridge_jax.models.heads import Heads
from bridge_jax.models.interaction import Interaction
from bridge_jax.models.placement import meeting_blocks
from bridge_jax.models.token_similarity import Compared, token_similarity
from bridge_jax.models.towers import normalise, tower_class
from bridge_jax.types import Batch, Fused, Lower


class BridgeModel(nn.Module):
    """The whole model. Parameters live under `vision/`, `text/`, `bridge/layer_<q>/`, `heads/` and `decoder/`."""

    cfg: Config

    def setup(self):
        cfg = self.cfg
        self.dtype = jnp.dtype(cfg.compute_dtype)
        self.vision = tower_class("vision", cfg.vision.tower)(cfg.vision, self.dtype, cfg.blocks)
        self.text = tower_class("text", cfg.text.tower)(cfg.text, self.dtype, cfg.blocks)
        self.bridge = Layers(cfg, self.dtype)
        self.heads = Heads(cfg)
        if cfg.decoder is not None:
            self.decoder = Decoder(cfg.decoder, cfg.text.vocab_size, cfg.text.length, self.dtype, cfg.blocks)
        self.image_after, self.text_after = meeting_blocks(cfg)
        # After both finished towers, and with no bridge at all, the final norm lies below the meeting point.
        self.finish_below = cfg.bridge.placement == "after" or not self.image_after

    def lower_image(
        self,
        images: UInt8[Array, "B H W 3"],
        masked: Bool[Array, "B patches"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B P D"]:
        """Run the image tower up to and with its first bridged block."""
        stop = self.image_after[0] + 1 if self.image_after else self.cfg.vision.depth
        states = self.vision.embed(normalise(images, self.cfg), masked)
        states = self.vision.blocks(states, 0, stop, deterministic)
        return self.vision.finish(states) if self.finish_below else states

    def lower_text(
        self, ids: Int[Array, "B T"], mask: Bool[Array, "B T"], deterministic: bool = True
    ) -> Float[Array, "B T D"]:
        """Run the text tower up to and with its first bridged block."""
        stop = self.text_after[0] + 1 if self.text_after else self.cfg.text.depth
        states = self.text.blocks(self.text.embed(ids, deterministic), mask, 0, stop, deterministic)
        return self.text.finish(states) if self.finish_below else states

    def finish_image(self, lower_BPD: Float[Array, "B P D"], deterministic: bool = True) -> Float[Array, "B P D"]:
        """Run the rest of the image tower alone."""
        if self.finish_below:
            return lower_BPD
        depth = self.cfg.vision.depth
        return self.vision.finish(self.vision.blocks(lower_BPD, self.image_after[0] + 1, depth, deterministic))

    def finish_text(
        self, lower_BTD: Float[Array, "B T D"], mask: Bool[Array, "B T"], deterministic: bool = True
    ) -> Float[Array, "B T D"]:
        """Run the rest of the text tower alone."""
        if self.finish_below:
            return lower_BTD
        depth = self.cfg.text.depth
        return self.text.finish(self.text.blocks(lower_BTD, mask, self.text_after[0] + 1, depth, deterministic))

    def unimodal_image(self, lower_BPD: Float[Array, "B P D"], deterministic: bool = True) -> Float[Array, "B E"]:
        """Embed pictures alone: mean of the finished states of all P tokens, projected, of length one."""
        return self.heads.unimodal_image(layers.masked_mean(self.finish_image(lower_BPD, deterministic), None))

    def unimodal_text(
        self, lower_BTD: Float[Array, "B T D"], mask: Bool[Array, "B T"], deterministic: bool = True
    ) -> Float[Array, "B E"]:
        """Embed captions alone: mean of the finished states over real tokens, projected, of length one."""
        return self.heads.unimodal_text(layers.masked_mean(self.finish_text(lower_BTD, mask, deterministic), mask))

    def fused(self, lower: Lower, deterministic: bool = True) -> Fused:
        """Run the upper towers with the interaction; row i of `lower.image` meets row i of `lower.text`.

        The embeddings pool the *updated* states, not the last block's input (docs/method.md 5.4). Of k pictures
        a row, [B,k,P,D], each goes through the tower's blocks alone; the interaction and the pooling see all kP tokens.
        """
        (image, text), mask, attention = (lower.image, lower.text), lower.text_mask, []
        for equal in segments.runs(self):
            (image, text), weights = segments.run(self, equal, (image, text), mask, deterministic)
            attention += weights
        if not self.finish_below:
            image, text = self.vision.finish(image), self.text.finish(text)
        image = image.reshape(image.shape[0], -1, image.shape[-1])  # the batch may be a symbol
        image_BE = self.heads.fused_image(layers.masked_mean(image, None))
        text_BE = self.heads.fused_text(layers.masked_mean(text, mask))
        return Fused(
            image=image_BE,
            text=text_BE,
            itm_logit=self.heads.itm(text_BE, image_BE) + self._of_tokens(lower),
            image_states=image,
            text_states=text,
            text_over_image=tuple(a_t for a_t, _ in attention if a_t is not None),
            image_over_text=tuple(a_v for _, a_v in attention if a_v is not None),
        )

    def compared(self, lower: Lower) -> tuple[Compared, Compared]:
        """Return what the first interaction layer compares: texts over images, images over texts."""
        return self.bridge.layers[0](lower.image, lower.text, lower.text_mask, True, compare=True)

    def _of_tokens(self, lower: Lower) -> Float[Array, "B"] | float:
        """Return what heads that read the tokens' similarity add to the match logit."""
        heads = [head for name, head in self.heads.by_loss.items() if "compared" in objectives.needs(name).passes]
        if not heads:
            return 0.0
        similarity_B = token_similarity(*self.compared(lower), lower.text_mask)
        return sum(head(similarity_B) for head in heads)

    def segment(
        self, q: int, states: tuple[jax.Array, jax.Array], mask: Bool[Array, "B T"], deterministic: bool
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array | None, jax.Array | None]]:
        """Run interaction layer q and the tower blocks up to the next one; return the states and its attention."""
        image, text, over_image, over_text = self.bridge.layers[q](*states, mask, deterministic)
        images, texts = segments.blocks_after(self, q)
        start, text_start = self.image_after[q] + 1, self.text_after[q] + 1
        frames = image.reshape(-1, *image.shape[-2:])
        image = self.vision.blocks(frames, start, start + images, deterministic).reshape(image.shape)
        text = self.text.blocks(text, mask, text_start, text_start + texts, deterministic)
        return (image, text), (over_image, over_text)

    def memory(self, lower: Lower, deterministic: bool = True) -> Memory:
        """Return what the decoder reads: the picture's own finished states, or both sides' after they met."""
        if self.decoder.cfg.reads == "image":
            return self.decoder.read(self.finish_image(lower.image, deterministic))
        fused = self.fused(lower, deterministic)
        return self.decoder.read(fused.image_states, (fused.text_states, lower.text_mask))

    def touch(self, images: jax.Array, ids: jax.Array, mask: jax.Array) -> None:
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


class Layers(nn.Module):
    """The interaction layers, stored one by one as `layer_<q>`."""

    cfg: Config
    dtype: jnp.dtype

    def setup(self):
        bridge = self.cfg.bridge
        self.layers = [Interaction(bridge, self.dtype, name=f"layer_{q}") for q in range(bridge.layers)]
