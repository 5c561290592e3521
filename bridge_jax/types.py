"""The glossary of shape letters, and the records that modules pass to each other.

    B  pairs in the (global) batch          S  shared width of the bridge
    P  image tokens, class token included   N  attention heads
    T  text tokens                          K  width of one head
    D  width of a tower                     E  width of an embedding
    C  candidates scored for one query: the true partner first, then the mined ones
    Q  interaction layers                   V  vocabulary size
    H W  pixels of an image                 M  width of a hidden layer
    A  possible answers to a question       k  pictures of a row: a statement's two, a video's frames

An array's name ends with its letters (`states_BPD`), and a public signature repeats them as jaxtyping shapes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import struct

Array = Any  # a jax or a numpy array
Params = Any  # a nested dict of arrays
Progress = Callable[[str, int, int], None]  # (what is counted, done, total); total 0: not known


@struct.dataclass
class Batch:
    """The batch of a step, from the data pipeline. Leaves are [B, ...]; a field that no loss reads is None.

    The training loop reads `broken` and removes it before the step.
    """

    image_ids: Array  # int32 [B]; captions of one photo share it
    text_mask: Array  # bool [B,T]; False on padding
    images: Array = None  # uint8 [B,H,W,3], or [B,k,H,W,3] with k pictures a row; the `lower` pass normalises them
    ids: Array = None  # int32 [B,T]
    lower_image: Array = None  # [B,P,D], the cached states that replace `images`
    lower_text: Array = None  # [B,T,D], the cached states that replace `ids`
    wrong_ids: Array = None  # int32 [B,w,T], captions that are false of the row's picture
    wrong_mask: Array = None  # bool [B,w,T]; all False where the record has fewer
    partner_images: Array = None  # uint8 [B,k,H,W,3], for each text, pictures mined from the whole split
    partner_ids: Array = None  # int32 [B,k,T], for each picture, captions mined from the whole split
    partner_lower_image: Array = None  # [B,k,P,D], the cached states that replace `partner_images`
    partner_lower_text: Array = None  # [B,k,T,D], the cached states that replace `partner_ids`
    partner_image_valid: Array = None  # bool [B,k]; False where the split has fewer
    partner_text_mask: Array = None  # bool [B,k,T]; all False where the split has fewer
    extras: dict[str, Array] = struct.field(default_factory=dict)  # fields that single losses add (objectives.Needs)
    broken: Array = None  # int32 [B,2], the broken record and caption that the row replaces (broken.py)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> "Batch":
        """Build a batch from name -> array. Arrays whose name is no field of Batch go to `extras`."""
        common = {field.name for field in dataclasses.fields(cls)} & arrays.keys()
        extras = {name: array for name, array in arrays.items() if name not in common}
        return cls(**{name: arrays[name] for name in common}, extras=extras)

    def arrays(self) -> dict[str, Array]:
        """Return all present fields as name -> array: the inverse of `from_arrays`."""
        common = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: array for name, array in common.items() if name != "extras" and array is not None} | self.extras


@struct.dataclass
class Lower:
    """The states of both towers after their first bridged block, before any interaction."""

    image: Array  # [B,P,D_v]; [B,k,P,D_v] if a row has k pictures: for `each_picture`, and for `fused` of a video
    text: Array  # [B,T,D_t]
    text_mask: Array  # bool [B,T]


@struct.dataclass
class Fused:
    """The results of the upper towers, whose layers exchange states between image and text."""

    image: Array  # [B,E], L2-normalised
    text: Array  # [B,E], L2-normalised
    itm_logit: Array  # [B], match logit
    image_states: Array  # [B,P,D_v], updated states of the finished tower; [B,kP,D_v] for all frames of a video
    text_states: Array  # [B,T,D_t]
    text_over_image: tuple[Array, ...] = ()  # Q times [B,T,P], attention averaged over the heads, before dropout
    image_over_text: tuple[Array, ...] = ()  # Q times [B,P,T]


@struct.dataclass
class Candidates:
    """Scores of every query with its candidates: the true partner first, then the mined ones. Every pair is fused."""

    similarity: Array  # [B,C], <p_t, p_v> of the fused pair
    itm_logit: Array  # [B,C]
    unimodal: Array  # [B,C], <u_t, u_v> of the same pairs, before fusion
    valid: Array  # bool [B,C]; False where there was no partner of another image


@struct.dataclass
class Outputs:
    """The results of the forward passes. A pass that no active loss needs leaves its fields None."""

    logit_scale: Array  # scalar, already exponentiated and clamped
    unimodal_image: Array = None  # [B,E], L2-normalised
    unimodal_text: Array = None  # [B,E]
    unimodal_wrong: Array = None  # [B,w,E], of the row's own wrong captions; which are there: `batch.wrong_mask`
    fused: Any = None  # Fused, the true pairs
    by_text: Any = None  # Candidates: images for each text
    by_image: Any = None  # Candidates: texts for each image
    left_out: Array = None  # scalar, share of the wrong pairs of the batch that were too good to be wrong
    own: dict[str, Any] = struct.field(default_factory=dict)  # loss -> result of its own pass or head


@struct.dataclass
class Loss:
    """A loss as a sum and a count: its mean over padded, masked and sharded batches is exact."""

    sum: Array  # scalar
    count: Array  # scalar
    metrics: dict[str, Array] = struct.field(default_factory=dict)  # name -> scalar, logged as `<loss>/<name>`

    @property
    def mean(self) -> Array:
        """Return sum / max(count, 1)."""
        return self.sum / jax.numpy.maximum(self.count, 1)


@dataclasses.dataclass(frozen=True)
class Table:
    """An evaluator's results as a table of text; `run.terminal` draws it."""

    columns: tuple[str, ...]
    labels: int  # number of leading columns that hold words; the others hold numbers
    rows: list[tuple[str, ...]]
    lines: list[str] = dataclasses.field(default_factory=list)  # printed below it
