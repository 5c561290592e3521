"""VQA v2: the official question and annotation files over COCO's photos, and the list of answers to choose from."""

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from bridge_jax.config import ConfigError, as_json
from bridge_jax.data.answers import normalise
from bridge_jax.data.datasets import photo_builder
from bridge_jax.data.datasets.photo_builder import Refuse
from bridge_jax.data.datasets.photo_records import Photo
from bridge_jax.data.questions import Question, save_answers

SPLITS = {"train2014": "train", "val2014": "val", "test2015": "test", "test-dev2015": "test_dev"}
_WITH_ANSWERS = ("train", "val")


class Builder(photo_builder.Builder, skip_registration=True):
    """Raw folder: `v2_OpenEnded_mscoco_<subset>*_questions.json`, `v2_mscoco_<subset>*_annotations.json` and photos.

    The subsets are train2014, val2014, test2015 and test-dev2015, each where its files exist; the last two have no
    annotations. Photos lie in folders named after the subset (test-dev2015's in test2015) as
    `COCO_train2014_000000000025.jpg`. The kind of a question is its answer type (yes/no, number, other). `answers.txt`
    lists the `num_answers` most frequent answers to questions of train, normalised, without those that answer fewer
    than `min_answer_count` questions.
    """

    name = "vqav2"
    QUESTIONS = True
    SUBSETS: ClassVar = {"test_dev": "test"}
    DESCRIPTION = "Visual question answering v2.0, balanced real images, open-ended."
    HOMEPAGE = "https://visualqa.org/"
    CITATION = "Goyal et al.: Making the V in VQA Matter. arXiv 1612.00837, 2017."

    def __init__(self, *, num_answers: int, min_answer_count: int, **arguments: Any):
        """Read and check the files before anything is written. Raises ConfigError (see `read`)."""
        super().__init__(**arguments)
        self._answers = most_frequent(self._photos["train"], num_answers, min_answer_count)

    @classmethod
    def survey(cls, raw: Path, refuse: Refuse) -> dict[str, list[Photo]]:
        """Return split -> photos with their questions, and call `refuse` for missing files and questions.

        Raises ConfigError for a file of another kind.
        """
        photos = {}
        for subset, split in SPLITS.items():
            if questions := _one(raw, f"v2_OpenEnded_mscoco_{subset}*_questions.json"):
                annotations = _one(raw, f"v2_mscoco_{subset}*_annotations.json")
                if annotations is None and split in _WITH_ANSWERS:
                    refuse(
                        f"--raw_dir: {questions} has no v2_mscoco_{subset}_annotations.json beside it; fetch it from "
                        f"{cls.HOMEPAGE}"
                    )
                photos[split] = _photos(raw, subset, questions, annotations, refuse)
                photo_builder.check({split: photos[split]}, questions, refuse)
        if "train" not in photos:
            refuse(
                f"--raw_dir: no v2_OpenEnded_mscoco_train2014_questions.json in {raw}; a model chooses from "
                "the answers to its questions"
            )
        return photos

    def _download_and_prepare(self, *arguments: Any, **keywords: Any) -> None:
        super()._download_and_prepare(*arguments, **keywords)
        save_answers(self._answers, Path(self.data_path))


def most_frequent(photos: Sequence[Photo], count: int, at_least: int) -> list[str]:
    """Return the `count` answers that are the majority answer to most questions, ties in the order of the words.

    Leaves out answers that are so for fewer than `at_least` questions. Raises ConfigError where none is left.
    """
    questions = [question for photo in photos for question in photo.questions]
    first = (collections.Counter(map(normalise, question.answers)).most_common(1)[0][0] for question in questions)
    counted = collections.Counter(answer for answer in first if answer)
    ranked = sorted(counted, key=lambda answer: (-counted[answer], answer))
    frequent = [answer for answer in ranked[:count] if counted[answer] >= at_least]
    if not frequent:
        raise ConfigError(
            f"--min_answer_count is {at_least}, but no answer is given to so many of the {len(questions)} questions; "
            "lower it"
        )
    return frequent


def _one(raw: Path, pattern: str) -> Path | None:
    """Return the file that matches `pattern`, or None. Raises ConfigError where several do."""
    paths = sorted(raw.glob(pattern))
    if len(paths) > 1:
        raise ConfigError(f"--raw_dir: {paths[0].name} and {paths[1].name} are both in {raw}; leave one")
    return paths[0] if paths else None


def _photos(raw: Path, subset: str, questions: Path, annotations: Path | None, refuse: Refuse) -> list[Photo]:
    """Return the photos in the order in which the questions name them."""
    entries = (
        [] if annotations is None else _entries(annotations, "annotations", ("question_id", "answer_type", "answers"))
    )
    annotated = {entry["question_id"]: entry for entry in entries}
    year = "test2015" if subset == "test-dev2015" else subset
    questions_of_photo: dict[int, list[Question]] = collections.defaultdict(list)
    for entry in _entries(questions, "questions", ("question_id", "image_id", "question")):
        id_ = entry["question_id"]
        if annotations is not None and id_ not in annotated:
            refuse(f"{annotations}: question {id_} of {questions.name} has no annotation; fetch both files again")
        annotation = annotated.get(id_, {"answer_type": "other", "answers": ()})
        answers = tuple(str(answer["answer"]) for answer in annotation["answers"])
        question = Question(id_, entry["question"].strip(), annotation["answer_type"], answers)
        questions_of_photo[entry["image_id"]].append(question)
    if idle := annotated.keys() - {question.id for about in questions_of_photo.values() for question in about}:
        refuse(f"{questions}: {annotations.name if annotations else ''} answers question {min(idle)}, which it lacks")
    return [
        Photo(raw / year / f"COCO_{year}_{image_id:012d}.jpg", image_id, (), tuple(about))
        for image_id, about in questions_of_photo.items()
    ]


_KINDS = {"question_id": int, "image_id": int, "question": str, "answer_type": str, "answers": list}


def _entries(path: Path, name: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return the list `name` of a JSON file, every entry with `keys`. Raises ConfigError."""
    try:
        entries = as_json.loads(path.read_text(encoding="utf-8-sig"))[name]
        for entry in entries:
            for key in keys:
                if type(entry[key]) is not _KINDS[key]:
                    raise TypeError(f"{key} {entry[key]!r:.60}")
            photo_builder.whole(entry.get("image_id", 0))
            [answer["answer"] for answer in entry.get("answers", ())]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a VQA v2 file: expected JSON with a list `{name}`, each with {', '.join(keys)} ({error!r})"
        ) from error
    return entries
