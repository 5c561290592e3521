"""The order behind the recalls of a split: each query's best candidates with both scores, in plain NumPy."""

from typing import NamedTuple

import numpy as np

from bridge_jax.evals.scores import recall, reranking


class Ranked(NamedTuple):
    """The queries of one direction. The unimodal score is logit scale x cosine, the fused one the match logit."""

    candidates: np.ndarray  # int32 [queries,k], rows of the other side, best unimodal score first
    unimodal: np.ndarray  # float32 [queries,k]
    fused: np.ndarray  # float32 [queries,k]
    unimodal_rank: np.ndarray  # int32 [queries], of the best true candidate in the unimodal order; best is 1
    rerank_rank: np.ndarray  # int32 [queries], in the order of fused + weight x unimodal


class Rankings(NamedTuple):
    """Both directions of a split. Rows of pictures are records, rows of texts are captions in record order."""

    text_to_image: Ranked
    image_to_text: Ranked
    image_ids: np.ndarray  # int32 [images]
    text_record: np.ndarray  # int32 [texts], the row of a text's own picture
    text_place: np.ndarray  # int32 [texts], the caption's number in its record
    true_unimodal: np.ndarray  # float32 [texts], of a text with its own picture
    true_fused: np.ndarray  # float32 [texts]
    weight: float  # of the unimodal score in the reranked order

    def direction(self, name: str) -> Ranked:
        """Return the queries of text_to_image or image_to_text."""
        return self.text_to_image if name == "text_to_image" else self.image_to_text


def rankings(
    candidates: reranking.Candidates,
    cosines: np.ndarray,
    scale: float,
    weight: float,
    text_ids: np.ndarray,
    image_ids: np.ndarray,
) -> Rankings:
    """Return the rankings of a split from its cosines [texts,images] and the match logits of its candidates.

    Captions come in record order, so those of one picture stand together. Raises the errors of `recall.ranks`.
    """
    unimodal = (scale * cosines).astype(np.float32)
    reordered = reranking.reorder(candidates, cosines, weight * scale)
    before, after = (recall.both_ranks(*order, text_ids, image_ids) for order in ((cosines, cosines.T), reordered))
    sides = {
        "text_to_image": (candidates.by_text, unimodal, candidates.fused),
        "image_to_text": (candidates.by_image, unimodal.T, candidates.fused.T),
    }
    found = {}
    for name, (picked, towers, fused) in sides.items():
        rows = np.arange(len(picked))[:, None]
        found[name] = Ranked(
            picked.astype(np.int32),
            towers[rows, picked],
            fused[rows, picked].astype(np.float32),
            before[name][0].astype(np.int32),
            after[name][0].astype(np.int32),
        )
    own = np.argmax(text_ids[:, None] == image_ids[None], axis=1)
    first = np.flatnonzero(np.r_[True, own[1:] != own[:-1]])
    place = np.arange(len(own)) - np.repeat(first, np.diff(np.r_[first, len(own)]))
    texts = np.arange(len(own))
    return Rankings(
        **found,
        image_ids=np.asarray(image_ids, np.int32),
        text_record=own.astype(np.int32),
        text_place=place.astype(np.int32),
        true_unimodal=unimodal[texts, own],
        true_fused=candidates.fused[texts, own].astype(np.float32),
        weight=float(weight),
    )
