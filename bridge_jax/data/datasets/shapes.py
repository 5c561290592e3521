"""Write the procedural shapes set as records; `bridge_jax/data/shapes.py` defines the scenes and the splits.

Version 1.1.0 adds the questions. Pictures, captions and the ids of the captions' words are those of 1.0.0.
Version 1.2.0 adds a second picture and the statements about both; all else is that of 1.1.0.
Version 1.3.0 adds the words of the answers to the end of the vocabulary.
Version 2.0.0 has other pictures: every object stands in a patch of its own, and a scene has one relation and not two.
Version 2.1.0 asks for relations in the words of the captions; all else is that of 2.0.0.
Version 2.2.0 adds val_bindings and test_bindings. Their scenes are not trained on, so `train` is another draw.
Version 2.3.0 adds wrong captions with exchanged colours or sizes; all else is that of 2.2.0.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from bridge_jax import rng
from bridge_jax.data import prepared, shapes, shapes_questions, shapes_statements, text
from bridge_jax.data.questions import save_answers


class Builder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Draw the scenes, write them split by split and train their vocabulary, one token a word."""

    name = "shapes"
    VERSION = tfds.core.Version("2.3.0")

    def __init__(self, *, num_train: int, seed: int, **arguments: Any):
        """Draw all scenes. Raises ConfigError where `num_train` does not fit (see `shapes.splits`)."""
        self._splits, self._seed = shapes.splits(num_train, seed), seed
        super().__init__(**arguments)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Procedural scenes of coloured shapes; neighbours in train and *_relations mirror, "
            "those in *_bindings are twins.",
            features=prepared.features(questions=True, statements=True, pairs=True),
        )

    def _download_and_prepare(self, *arguments: Any, **keywords: Any) -> None:
        super()._download_and_prepare(*arguments, **keywords)
        lines = [caption.text for scene in self._splits["train"] for caption in shapes.captions(scene)]
        # every word that any scene may need, however few scenes train has
        lines += [group.phrase() for group in shapes.all_groups()]
        lines += [word for pair in shapes.RELATIONS.values() for word in pair]
        groups = shapes.Group(1, "small", "red", "circle"), shapes.Group(2, "large", "blue", "square")
        scene = shapes.Scene("horizontal", groups, ((), ()))  # its questions have every word of questions
        later = [question.text for question in shapes_questions.questions(scene, 0)]
        later += [shapes_statements.statement_text(kind, "red", 0) for kind in shapes_statements.KINDS]
        later += shapes_questions.ANSWERS
        text.train_vocabulary(lines, Path(self.data_path) / prepared.VOCABULARY, later)
        save_answers(shapes_questions.ANSWERS, Path(self.data_path))

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable[[], Iterator]]]:
        shards, first_id = {}, 0
        for split, scenes in self._splits.items():
            pairs = shapes_statements.pairs(scenes, rng.stream_seed(self._seed, f"shapes/statements/{split}"))
            starts = range(0, len(scenes), prepared.SHARD_EXAMPLES)
            shards[split] = [
                functools.partial(_examples, pairs[start : start + prepared.SHARD_EXAMPLES], first_id + start)
                for start in starts
            ]
            first_id += len(scenes)  # ids are unique over all splits
        return shards


def _examples(pairs: Sequence[shapes_statements.Pair], first_id: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for image_id, (scene, second, claims) in enumerate(pairs, first_id):
        captions = shapes.captions(scene)
        yield (
            image_id,
            {
                "image": shapes.render(scene),
                "image_id": image_id,
                "filename": f"{image_id:06d}.png",
                "captions": [caption.text for caption in captions],
                "caption_kinds": [caption.kind for caption in captions],
                "wrong_captions": shapes.wrong_captions(scene),
                "scene": scene.to_json(),
                "questions": [question.to_json() for question in shapes_questions.questions(scene, image_id)],
                "second_image": shapes.render(second),
                "statements": [statement.to_json() for statement in shapes_statements.as_questions(claims, image_id)],
            },
        )
