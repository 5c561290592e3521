"""Oracle that shares no code with the writer: a question is parsed and answered from the objects of the scene alone."""

import itertools
import re

import pytest

from bridge_jax import config
from bridge_jax.data import prepared, shapes, shapes_questions, text
from bridge_jax.data.records import open_split
from configs import shapes as shapes_config

NUMBER = {"one": 1, "two": 2, "three": 3}
GROUP = r"(one|two|three) (small|large) (\w+) (circle|square|triangle|cross)(?:e?s)?"


@pytest.fixture(scope="module")
def scenes():
    return list(itertools.chain.from_iterable(shapes.splits(400, 0).values()))


def objects(scene):
    return [
        {"size": g.size, "colour": g.colour, "shape": g.shape, "x": x, "y": y, "group": i}
        for i, (g, centres) in enumerate(zip(scene.groups, scene.centres, strict=True))
        for x, y in centres
    ]


def only(values):
    (value,) = set(values)
    return value


def singular(noun):
    return {"crosses": "cross"}.get(noun, noun.removesuffix("s") if noun not in ("cross",) else noun)


def answer(asked, scene):
    """Answer from places, colours and shapes; fail where a question could mean both groups."""
    everything = objects(scene)
    if found := re.fullmatch(r"what colour (is|are) the (\w+) \?", asked):
        meant = [o for o in everything if o["shape"] == singular(found[2])]
        assert (found[1] == "is") == (len(meant) == 1)
        return only(o["colour"] for o in meant)
    if found := re.fullmatch(r"what shape (is|are) the (\w+) (one|ones) \?", asked):
        return only(o["shape"] for o in everything if o["colour"] == found[2])
    if found := re.fullmatch(r"what size (is|are) the (\w+) (\w+) \?", asked):
        return only(o["size"] for o in everything if (o["colour"], o["shape"]) == (found[2], singular(found[3])))
    if found := re.fullmatch(r"how many (\w+) (\w+) are there \?", asked):
        return str(sum((o["colour"], o["shape"]) == (found[1], singular(found[2])) for o in everything))
    found = re.fullmatch(rf"{GROUP} (left of|above) {GROUP}", asked)
    assert found, asked
    sides = []
    for count, *looks in (found.groups()[:4], found.groups()[5:9]):
        members = [o for o in everything if [o["size"], o["colour"], o["shape"]] == looks]
        assert len(members) == NUMBER[count]
        sides.append([o["x" if found[5] == "left of" else "y"] for o in members])
    return "yes" if max(sides[0]) < min(sides[1]) else "no"


def test_every_answer_is_true_of_the_scene(scenes):
    for number, scene in enumerate(scenes):
        asked = shapes_questions.questions(scene, number)
        assert 6 <= len(asked) <= shapes_questions.PER_SCENE
        for question in asked:
            assert set(question.answers) == {answer(question.text, scene)}
            assert len(question.answers) == 10
            assert question.answers[0] in shapes_questions.ANSWERS
        assert {"size", "count", "relation"} <= {question.kind for question in asked}


def test_words_alone_do_not_answer_a_relation(scenes):
    """Every scene is asked both ways, and its mirror answers the same words the other way."""
    for scene in scenes:
        asked = {q.text: q.answers[0] for q in shapes_questions.questions(scene, 0) if q.kind == "relation"}
        assert sorted(asked.values()) == ["no", "yes"]
        mirrored = {q.text: q.answers[0] for q in shapes_questions.questions(scene.mirror(), 0)}
        assert all(mirrored[said] != answer for said, answer in asked.items())


def test_every_kind_and_every_answer_occurs(scenes):
    asked = [question for scene in scenes for question in shapes_questions.questions(scene, 0)]
    assert {question.kind for question in asked} == {"colour", "shape", "size", "count", "relation"}
    assert {question.answers[0] for question in asked} == set(shapes_questions.ANSWERS)


def test_ids_are_unique(scenes):
    ids = [question.id for number, scene in enumerate(scenes) for question in shapes_questions.questions(scene, number)]
    assert len(set(ids)) == len(ids)


def test_the_vocabulary_knows_every_question_and_all_fit(small_shapes):
    """Of every pair of groups that there can be, not only of the few that were drawn."""
    tokenizer = text.Tokenizer(next(small_shapes.rglob(prepared.VOCABULARY)), shapes_config.get_config().text.length)
    said = set()
    for pair in shapes.attribute_sets()[::7]:
        for axis, groups in itertools.product(shapes.RELATIONS, (pair, pair[::-1])):
            said |= {q.text for q in shapes_questions.questions(shapes.Scene(axis, groups, ((), ())), 0)}
    said = sorted(said)
    ids, mask = tokenizer.encode(said)
    assert len(said) > 5000
    assert not (ids == tokenizer.unk_id).any()
    assert mask.sum(axis=1).max() <= 16
    assert tokenizer.decode(ids[0]) == said[0]


def test_the_questions_leave_the_ids_of_the_captions_alone(small_shapes, tmp_path):
    trained = text.Tokenizer(next(small_shapes.rglob(prepared.VOCABULARY)), 16)
    settings = shapes_config.get_config()
    settings.data.data_dir = str(small_shapes)
    train = list(open_split(config.parse(settings).data, "train"))
    said = [caption for record in train for caption in record["captions"]]
    said += [group.phrase() for group in shapes.all_groups()]
    said += [word for pair in shapes.RELATIONS.values() for word in pair]
    text.train_vocabulary(said, tmp_path / "captions.json")
    alone = text.Tokenizer(tmp_path / "captions.json", 16)
    assert alone.vocab_size < trained.vocab_size <= settings.text.vocab_size
    for one, other in zip(alone.encode(said), trained.encode(said), strict=True):
        assert (one == other).all()
    asked = train[0]["questions"][0].text
    assert alone.unk_id in alone.encode([asked])[0]
