"""Open a checkpoint for search: embeddings of photos and texts, and the match logits of a text with photos."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from bridge_jax.config import Config, ConfigError, Mesh, evaluators
from bridge_jax.data import text
from bridge_jax.data.padding import padded_batches
from bridge_jax.models import heads
from bridge_jax.step import sharding
from bridge_jax.step.params import abstract_params
from bridge_jax.step.predict import Predict, build_predict
from bridge_jax.types import Array, Lower, Params
from bridge_jax.workdir import manifest
from bridge_jax.workdir.checkpoint import FROZEN, Checkpoints

PAIRS = 50  # pairs of a batch of the bridge: two batches for the 100 candidates of a query


class Text(NamedTuple):
    """A text after the lower text tower."""

    embedding: Float[np.ndarray, " E"]
    lower: Float[np.ndarray, "T D"]
    mask: Bool[np.ndarray, " T"]


@dataclasses.dataclass(frozen=True)
class Model:
    """An opened checkpoint."""

    cfg: Config
    params: Params
    predict: Predict
    tokenizer: text.Tokenizer
    digest: str  # of its parameters
    workdir: Path
    step: int
    scale: float  # of the cosines, in the unimodal score
    weight: float  # of the unimodal score beside the match logit
    bridged: bool  # whether it has a bridge, to rerank with

    @property
    def batch(self) -> int:
        """Rows of a batch of photos."""
        return evaluators.settings(self.cfg, "retrieval").batch_size

    def photos(self, pixels: UInt8[np.ndarray, "B H W 3"]) -> tuple[Float[np.ndarray, "B E"], Float[Array, "B P D"]]:
        """Return embeddings and lower states of a batch of photos."""
        lower = self.predict.lower_image(self.params, pixels)
        return np.asarray(self.predict.unimodal_image(self.params, lower), np.float32), lower

    def photo(self, pixels: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, " E"]:
        """Return the embedding of one photo."""
        return self.photos(np.repeat(pixels[None], self.batch, axis=0))[0][0]

    def text(self, caption: str) -> Text:
        """Embed a text. Raises ConfigError where it has nothing to read."""
        if fault := text.fault(caption):
            raise ConfigError(f"the query is {fault}: expected words such as 'a dog on grass'")
        ids, mask = self.tokenizer.encode([caption])
        lower = self.predict.lower_text(self.params, ids, mask)
        embedding = np.asarray(self.predict.unimodal_text(self.params, lower, mask), np.float32)
        return Text(embedding[0], np.asarray(lower)[0], mask[0])

    def match(self, query: Text, lower: Float[np.ndarray, "n P D"]) -> Float[np.ndarray, " n"]:
        """Return the match logit of a text with each of n photos."""
        logits, text_of = [], np.zeros(PAIRS, int)
        for rows, valid in padded_batches(len(lower), PAIRS):
            image = np.asarray(lower[rows], jnp.dtype(self.cfg.compute_dtype))
            states = self.predict.place(Lower(image, query.lower[None], query.mask[None]))
            logits.append(np.asarray(self.predict.match(self.params, states, np.arange(PAIRS), text_of))[valid])
        return np.concatenate([np.zeros(0, np.float32), *logits])


def open_model(workdir: str | Path, checkpoint: str = "best", **data: str) -> Model:
    """Open a checkpoint of a workdir; `data` replaces keys of config.data.

    Raises ConfigError where there is none, or its vocabulary is not there.
    """
    saves = Checkpoints(workdir, read_only=True)
    step = saves.choose(checkpoint)
    cfg = saves.config(step)
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, **data))
    mesh = sharding.make_mesh(Mesh(data=1, fsdp=1, tensor=1), jax.devices()[:1])  # a query is one row
    params = saves.restore_params(step, abstract_params(cfg, mesh))
    return Model(
        cfg=cfg,
        params=params,
        predict=build_predict(cfg, mesh),
        tokenizer=text.load(cfg.data, cfg.text),
        digest=_digest(saves, step),
        workdir=Path(workdir).resolve(),
        step=step,
        scale=heads.double_scale(params["heads"]["log_scale"], cfg.bridge),
        weight=evaluators.settings(cfg, "retrieval").rerank_weight,
        bridged=cfg.bridge.design != "none",
    )


def _digest(saves: Checkpoints, step: int) -> str:
    """Return a hash of the files of a checkpoint. Its scores, which may come later, do not count."""
    folders = [str(step), *([FROZEN] if saves.meta(step).frozen else [])]
    files = [manifest.read(saves.folder / folder)["files"] for folder in folders]
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
