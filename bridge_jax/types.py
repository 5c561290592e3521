"""The glossary of shape letters, and the records that travel between modules.

    B  pairs in the (global) batch          S  shared width of the bridge
    P  image tokens, class token included   N  attention heads
    T  text tokens                          K  width of one head
    D  width of a tower                     E  width of an embedding
    C  candidates scored for one query: the true partner first, then the mined ones
    Q  interaction layers                   V  vocabulary size
    H W  pixels of an image                 M  width of a hidden layer
    A  answers that a question may have     k  pictures of a row: a statement's two, a video's frames

An array is named with its letters (`states_BPD`), and a public signature says them again as jaxtyping shapes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import struct

Array = Any  # a jax or a numpy array
Params = Any  # a nested dict of arrays


@struct.dataclass
class Batch:
    """What the data pipeline yields for a step. Leaves are [B, ...]; a part that no loss asks for is None.

    `broken` is for the loop, which takes it out.
    """

    image_ids: Array  # int32 [B]; captions of one photo share it
    text_mask: Array  # bool [B,T]; False on padding
    images: Array = None  # uint8 [B,H,W,3], or [B,k,H,W,3] of k pictures a row; normalised inside the `lower` pass
    ids: Array = None  # int32 [B,T]
    lower_image: Array = None  # [B,P,D], the cached states that replace `images`
    lower_text: Array = None  # [B,T,D], the cached states that replace `ids`
    extras: dict[str, Array] = struct.field(default_factory=dict)  # what single losses read besides (objectives.Needs)
    broken: Array = None  # int32 [B,2], the record that was drawn for the row in vain and its caption (broken.py)

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> "Batch":
        """Return the batch of arrays by name; a name that is no part of every batch is one of `extras`."""
        common = {field.name for field in dataclasses.fields(cls)} & arrays.keys()
        extras = {name: array for name, array in arrays.items() if name not in common}
        return cls(**{name: arrays[name] for name in common}, extras=extras)

    def arrays(self) -> dict[str, Array]:
        """Return what there is, by name: the way back from `of`."""
        common = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: array for name, array in common.items() if name != "extras" and array is not None} | self.extras


@struct.dataclass
class Lower:
    """Both towers' states where they first meet: after the first bridged block of each, before any interaction."""

    image: Array  # [B,P,D_v]; [B,k,P,D_v] where a row has k pictures: for `each_picture`, and for `fused` a video
    text: Array  # [B,T,D_t]
    text_mask: Array  # bool [B,T]


@struct.dataclass
class Fused:
    """The upper towers run with the interaction."""

    image: Array  # [B,E], L2-normalised
    text: Array  # [B,E], L2-normalised
    itm_logit: Array  # [B], match logit
    image_states: Array  # [B,P,D_v], updated states of the finished tower; [B,kP,D_v] of all frames of a video
    text_states: Array  # [B,T,D_t]
    text_over_image: tuple[Array, ...] = ()  # Q times [B,T,P], head-averaged attention before dropout
    image_over_text: tuple[Array, ...] = ()  # Q times [B,P,T]


@struct.dataclass
class Candidates:
    """Every query with its true partner first and its mined ones after it, each fused for real with the query."""

    similarity: Array  # [B,C], <p_t, p_v> of the fused pair
    itm_logit: Array  # [B,C]
    unimodal: Array  # [B,C], <u_t, u_v> of the same pairs, before fusion
    valid: Array  # bool [B,C]; False where the batch held no partner of another image


@struct.dataclass
class Outputs:
    """What the passes computed. A pass that no active loss needs leaves its fields None."""

    logit_scale: Array  # scalar, already exponentiated and clamped
    unimodal_image: Array = None  # [B,E], L2-normalised
    unimodal_text: Array = None  # [B,E]
    fused: Any = None  # Fused, the true pairs
    by_text: Any = None  # Candidates, for each text, images
    by_image: Any = None  # Candidates, for each image, texts
    own: dict[str, Any] = struct.field(default_factory=dict)  # loss -> what its own pass or its head computed


@struct.dataclass
class Loss:
    """A loss as a sum and a count, so that padded, masked and sharded batches average exactly."""

    sum: Array  # scalar
    count: Array  # scalar
    metrics: dict[str, Array] = struct.field(default_factory=dict)  # name -> scalar, logged as `<loss>/<name>`

    @property
    def mean(self) -> Array:
        return self.sum / jax.numpy.maximum(self.count, 1)


@dataclasses.dataclass(frozen=True)
class Table:
    """What an evaluator has to show, as text; `terminal` draws it."""

    columns: tuple[str, ...]
    labels: int  # the first so many columns are words, the others numbers
    rows: list[tuple[str, ...]]
    lines: list[str] = dataclasses.field(default_factory=list)  # said below it
