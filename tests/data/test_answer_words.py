"""The answers that a decoder learns to write: what is drawn of people's, in which tokens, and what is refused."""

import collections
import dataclasses

import numpy as np
import pytest

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import answers, pipeline, questions, text

KNOWN = {"yes": 0, "no": 1, "2": 2}


@pytest.fixture(scope="module")
def cfg(tiny_vqa_generative):
    return config.parse(tiny_vqa_generative())


def drawn(said, count=3000):
    generator = np.random.default_rng(0)
    return collections.Counter(answers.draw(said, KNOWN, generator) for _ in range(count))


def test_an_answer_is_drawn_as_often_as_people_gave_it():
    """As the server compares them; of what nobody may answer, nothing."""
    found = drawn(["yes"] * 6 + ["two"] * 2 + ["perhaps"] * 2)
    assert found.keys() == {0, 2}
    assert found[0] / 3000 == pytest.approx(6 / 8, abs=0.03)
    assert drawn(["perhaps", "maybe"], 5) == {None: 5}


def batches(cfg):
    stage = cfg.stages["task"]
    return [pipeline.train(cfg, stage, seed_stream="test")[step] for step in range(3)]


def test_a_row_has_an_answer_to_its_own_question_in_the_models_tokens(cfg):
    records = {record["image_id"]: record for record in pipeline.open_split(cfg.data, "train")}
    tokenizer, seen = text.load(cfg.data, cfg.text), set()
    for batch in batches(cfg):
        assert set(batch.extras) == {"answer_ids", "answer_mask"}
        for row, ids in enumerate(batch.extras["answer_ids"]):
            asked = records[int(batch.image_ids[row])]["questions"]
            (question,) = [one for one in asked if one.text == tokenizer.decode(batch.ids[row])]
            said = question.answers[0]  # all ten agree
            ids_of_it, mask_of_it = tokenizer.encode([said])
            np.testing.assert_array_equal(ids, ids_of_it[0])
            np.testing.assert_array_equal(batch.extras["answer_mask"][row], mask_of_it[0])
            seen.add(said)
    assert len(seen) > 3


def test_what_is_drawn_is_a_function_of_the_step(cfg, monkeypatch):
    """Ten answers, all different."""
    real, known = questions.Question.from_json, questions.load_answers(cfg)

    def of_many(line):
        return real(line)._replace(answers=known[:10])

    monkeypatch.setattr(questions.Question, "from_json", of_many)
    first, again = batches(cfg), batches(cfg)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.extras["answer_ids"], other.extras["answer_ids"])
    assert len({tuple(ids) for batch in first for ids in batch.extras["answer_ids"].tolist()}) > 4
    stage = dataclasses.replace(cfg.stages["task"], batch_size=4)
    part = pipeline.train(cfg, stage, seed_stream="test", rows=[1, 2])[0]
    np.testing.assert_array_equal(part.extras["answer_ids"], first[0].extras["answer_ids"][[1, 2]])


def test_a_question_without_a_known_answer_has_nothing_to_write(cfg, monkeypatch):
    monkeypatch.setattr(questions, "load_answers", lambda cfg: ("red", "yes"))
    masks = np.concatenate([batch.extras["answer_mask"] for batch in batches(cfg)]).sum(axis=1)
    assert set(masks.tolist()) == {0, 3}


@pytest.mark.parametrize(
    ("known", "says"),
    [
        (("yes", "a red zebra"), r"config\.data\.vocabulary: .* has no token for 'zebra' of the answer 'a red zebra'"),
        (
            ("yes", "red " * 15),
            r"config\.text\.length is 16, but the answer '(red )+' has 17 tokens, .*length=17 or more",
        ),
    ],
)
def test_answers_that_cannot_be_written_are_refused(cfg, monkeypatch, known, says):
    monkeypatch.setattr(questions, "load_answers", lambda cfg: known)
    with pytest.raises(ConfigError, match=says):
        questions.load_answer_words(cfg)
    with pytest.raises(ConfigError, match=says):
        batches(cfg)


def test_the_longest_answer_that_fits_is_whole(cfg, monkeypatch):
    monkeypatch.setattr(questions, "load_answers", lambda cfg: ("yes", "red " * 14))
    assert questions.load_answer_words(cfg)[1].sum(axis=1).tolist() == [3, 16]
