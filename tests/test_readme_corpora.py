"""The commands that prepare what is pre-trained on, as README and docstrings give them, run on raw folders by hand."""

import sys

import pytest

from tests.data import test_visual_genome
from tests.data.test_pairs import shard, tar
from tests.test_readme import name_of, prepares, run


def test_every_corpus_has_its_command():
    assert {words[3] for words in prepares("cc3m", "cc12m", "visual_genome")} == {
        f"--dataset={name}" for name in ("cc3m", "cc12m", "visual_genome")
    }


@pytest.mark.parametrize("words", prepares("cc3m", "cc12m", "visual_genome"), ids=name_of)
def test_what_is_pretrained_on_is_prepared_from_the_layout_that_is_described(words, tmp_path):
    if "--dataset=visual_genome" in words:
        test_visual_genome.write(tmp_path)
    else:
        tar(tmp_path / "00000.tar", shard("ab"))
    changed = [word.replace("=DIR", f"={tmp_path}").replace("=data", f"={tmp_path / 'data'}") for word in words]
    assert run([sys.executable, *changed[1:]]).stdout.endswith("train 2\n")
