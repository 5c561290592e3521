"""Unimodal contrast against an explicit loop over pairs and positives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax.losses import itc
from bridge_jax.types import Batch, Outputs

IDS = np.array([7, 3, 7, 9, 3, 7])
B, E = len(IDS), 4


def embeddings(seed):
    x = np.random.default_rng(seed).normal(size=(B, E)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def by_loop(scores, ids, wrong=((),) * B):
    """Return the cross entropy to a target even over the positives, averaged over queries and directions.

    `wrong`: the scores of each image with its own wrong captions.
    """
    total = 0.0
    for direction, more in ((scores, ((),) * B), (scores.T, wrong)):
        for i, row in enumerate(direction):
            positives = [j for j in range(len(ids)) if ids[j] == ids[i]]
            log_sum = np.log(sum(np.exp(v) for v in (*row, *more[i])))
            total += sum(log_sum - row[j] for j in positives) / len(positives) / len(ids) / 2
    return total


def outputs_and_batch(scale=5.0, ids=IDS):
    text, image = embeddings(0), embeddings(1)
    outputs = Outputs(logit_scale=jnp.float32(scale), unimodal_text=text, unimodal_image=image)
    return outputs, Batch(image_ids=ids, text_mask=np.ones((B, 1), bool))


@pytest.mark.parametrize("ids", [IDS, np.arange(B), np.zeros(B, int)], ids=["some alike", "all differ", "all alike"])
def test_equals_the_loop(ids):
    outputs, batch = outputs_and_batch(ids=ids)
    result = itc.loss(outputs, batch, chunk_columns=0)
    scores = 5.0 * outputs.unimodal_text @ outputs.unimodal_image.T
    assert result.count == B
    assert result.mean == pytest.approx(by_loop(np.float64(scores), ids), rel=1e-5)


@pytest.mark.parametrize("chunk_columns", [0, 4])
def test_an_image_is_contrasted_with_its_own_wrong_captions_too(chunk_columns):
    """Row 2 has one, row 4 none, the others two. A missing one moves nothing, not even its own embedding."""
    outputs, batch = outputs_and_batch()
    wrong = np.stack([embeddings(2), embeddings(3)], axis=1)
    valid = np.array([[True, True]] * 2 + [[False, True], [True, True], [False, False], [True, True]])
    batch = dataclasses.replace(batch, wrong_mask=np.repeat(valid[..., None], 3, axis=2))

    def value(wrong):
        result = itc.loss(outputs.replace(unimodal_wrong=wrong), batch, chunk_columns)
        return result.mean, result.metrics

    (mean, metrics), gradient = jax.value_and_grad(value, has_aux=True)(wrong)
    cosines = np.float64(np.einsum("BwE,BE->Bw", wrong, outputs.unimodal_image))
    scores = 5.0 * np.float64(outputs.unimodal_text @ outputs.unimodal_image.T)
    own = [5.0 * row[there] for row, there in zip(cosines, valid, strict=True)]
    assert mean == pytest.approx(by_loop(scores, IDS, own), rel=1e-5)
    below = [score < scores[row, row] for row in range(B) for score in own[row]]
    assert metrics["wrong_accuracy"] == pytest.approx(np.mean(below))
    assert 0 < np.mean(below) < 1
    np.testing.assert_array_equal(np.abs(gradient).max(axis=2) > 0, valid)


def test_rows_are_texts_and_columns_images():
    """By accuracy: text 0 retrieves its image, text 1 another row of its photo, text 2 a wrong image."""
    scores = np.array([[3.0, 0, 0, 0], [0, 0, 3, 0], [3, 0, 0, 0], [0, 0, 0, 1]])
    assert itc.symmetric_info_nce(scores, np.array([0, 1, 1, 2])).metrics["accuracy"] == pytest.approx(3 / 4)


def test_captions_of_one_photo_do_not_push_each_other_away():
    """If all rows show one photo, there is nothing to contrast: equal scores are the optimum."""
    gradient = jax.grad(lambda s: itc.symmetric_info_nce(s, np.zeros(3, int)).sum)(jnp.ones((3, 3)))
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


def test_perfect_scores_have_no_loss_and_equal_scores_log_b():
    ids = np.arange(B)
    assert itc.symmetric_info_nce(100.0 * np.eye(B), ids).mean == pytest.approx(0, abs=1e-6)
    assert itc.symmetric_info_nce(np.ones((B, B)), ids).mean == pytest.approx(np.log(B), rel=1e-6)


def test_the_scale_multiplies_the_cosines():
    outputs, batch = outputs_and_batch(scale=0.0)
    assert itc.loss(outputs, batch, chunk_columns=0).mean == pytest.approx(by_loop(np.zeros((B, B)), IDS), rel=1e-6)


@pytest.mark.parametrize("ids", [IDS, np.arange(B), np.zeros(B, int)], ids=["some alike", "all differ", "all alike"])
@pytest.mark.parametrize("chunk_columns", [1, 4, 6, 100])
def test_chunks_equal_the_whole_in_value_and_gradient(ids, chunk_columns):
    """The sizes give an uneven last chunk, one chunk for all columns, and a chunk larger than the batch."""
    outputs, batch = outputs_and_batch(scale=20.0, ids=ids)

    def value(embeddings, columns):
        text, image, scale = embeddings
        replaced = outputs.replace(unimodal_text=text, unimodal_image=image, logit_scale=scale)
        result = itc.loss(replaced, batch, columns)
        return result.mean, result.metrics["accuracy"]

    inputs = (outputs.unimodal_text, outputs.unimodal_image, outputs.logit_scale)
    (whole, accuracy), whole_gradients = jax.value_and_grad(value, has_aux=True)(inputs, 0)
    (chunked, chunked_accuracy), gradients = jax.value_and_grad(value, has_aux=True)(inputs, chunk_columns)
    assert float(chunked) == pytest.approx(float(whole), rel=1e-6)
    assert float(chunked_accuracy) == float(accuracy)
    for gradient, expected in zip(gradients, whole_gradients, strict=True):
        assert np.linalg.norm(gradient - expected) <= 1e-6 * max(float(np.linalg.norm(expected)), 1e-2)
