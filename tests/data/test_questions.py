"""Questions as JSON, and the answers that travel with a data set."""

import dataclasses

import pytest

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.data import questions
from bridge_jax.data.questions import Question
from configs import shapes


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
    with pytest.raises(ConfigError, match=r"config.losses.vqa.answers is 5, but .*answers.txt lists 17; set .*=17"):
        questions.load_answers(other)


def test_a_data_set_without_questions_is_refused(cfg, tmp_path):
    folder = tmp_path / "flickr8k" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}", encoding="utf-8")
    data = dataclasses.replace(cfg.data, dataset="flickr8k", data_dir=str(tmp_path))
    with pytest.raises(ConfigError, match=r"'flickr8k' has no questions .*; choose a data set with questions"):
        questions.load_answers(dataclasses.replace(cfg, data=data))
