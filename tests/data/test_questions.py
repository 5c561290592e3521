"""What an answer is worth, against the rule carried out literally; and the answers that travel with a data set."""

import dataclasses
import itertools

import numpy as np
import pytest

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import questions
from bridge_jax.data.questions import Question
from configs import shapes


def literally(given, answers):
    """Leave each answer out in turn, and count among the nine that are left."""
    worth = [min(sum(a == given for a in rest) / 3, 1) for rest in itertools.combinations(answers, len(answers) - 1)]
    return sum(worth) / len(worth)


@pytest.mark.parametrize("people", [10, 1, 4])
def test_accuracy_is_the_mean_over_the_ways_to_leave_one_out(people):
    draw = np.random.default_rng(people)
    for _ in range(200):
        answers = [str(a) for a in draw.integers(0, 4, people)]
        for given in "01234":
            assert questions.accuracy(given, answers) == pytest.approx(literally(given, answers), abs=1e-12)


def test_without_answers_there_is_no_accuracy():
    with pytest.raises(ValueError, match="expected the answers that people gave, got none"):
        questions.accuracy("red", [])


def test_the_scores_are_the_accuracies_of_the_known_answers():
    known = {"red": 0, "blue": 1, "green": 2}
    found = questions.scores(["red"] * 6 + ["blue"] * 2 + ["mauve"] * 2, known)
    np.testing.assert_allclose(found, [1.0, 0.6, 0.0], atol=1e-6)
    assert found.dtype == np.float32


def test_a_question_travels_as_json():
    for answers in ((), ("yes", 'a "quoted" one', "dürüm")):
        question = Question(7, "is it ?", "yes/no", answers)
        assert Question.from_json(question.to_json()) == question


@pytest.fixture
def cfg(small_shapes):
    settings = shapes.get_config("task=vqa")
    settings.data.data_dir = str(small_shapes)
    return config.parse(settings)


def test_answers_are_read_in_the_order_of_the_outputs(cfg, tmp_path):
    found = questions.load_answers(cfg)
    assert len(found) == len(set(found)) == cfg.losses["vqa"]["answers"]
    questions.save_answers(found, tmp_path)
    assert (tmp_path / questions.ANSWERS).read_text().split("\n") == [*found, ""]


def test_a_head_of_another_width_is_refused(cfg):
    other = dataclasses.replace(cfg, losses={"vqa": {"weight": 1.0, "answers": 5}})
    with pytest.raises(ConfigError, match=r"config.losses.vqa.answers is 5, but .*answers.txt lists 17: set .*=17"):
        questions.load_answers(other)


def test_a_data_set_without_questions_is_refused(cfg, tmp_path):
    folder = tmp_path / "flickr8k" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}", encoding="utf-8")
    data = dataclasses.replace(cfg.data, dataset="flickr8k", data_dir=str(tmp_path))
    with pytest.raises(ConfigError, match=r"'flickr8k' has no questions .*; choose a data set that has"):
        questions.load_answers(dataclasses.replace(cfg, data=data))
