"""The commands that prepare pre-training and nocaps, as README and docstrings give them, run on raw folders by hand."""

import shutil
import sys

import pytest

from tests.data import test_nocaps, test_visual_genome
from tests.data.test_held_out import photo
from tests.data.test_pairs import shard, tar
from tests.test_readme import name_of, photos_for, prepares, run


def test_every_corpus_has_its_command():
    assert {words[3] for words in prepares("cc3m", "cc12m", "visual_genome")} == {
        f"--dataset={name}" for name in ("cc3m", "cc12m", "visual_genome")
    }


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A data_dir with what is held out, prepared by the commands for it."""
    folder = tmp_path_factory.mktemp("evaluated")
    for words in prepares("coco", "flickr30k"):
        raw = folder / words[3]
        run([sys.executable, *photos_for(words, raw)[1:-1], f"--data_dir={folder / 'data'}"])
    return folder / "data"


@pytest.mark.parametrize("words", prepares("cc3m", "cc12m", "visual_genome"), ids=name_of)
def test_what_is_pretrained_on_is_prepared_from_the_layout_that_is_described(words, evaluated, tmp_path):
    shutil.copytree(evaluated, tmp_path / "data")
    if "--dataset=visual_genome" in words:
        test_visual_genome.write(tmp_path, coco_ids={1: 2})
    else:
        flat = shard("a")["a.png"]  # as the photos that are held out
        tar(tmp_path / "0.tar", {"a.png": flat, "a.txt": b"a", "b.jpg": photo(5), "b.txt": b"a dog"})
    changed = [word.replace("=DIR", f"={tmp_path}").replace("=data", f"={tmp_path / 'data'}") for word in words]
    found = "1 by id and 0 by hash" if "--dataset=visual_genome" in words else "0 by id and 1 by hash"
    splits = "coco/val 1, coco/test 1, flickr30k/val 1, flickr30k/test 1"
    line = run([sys.executable, *changed[1:]]).stdout
    assert line.endswith(f": train 1; left out of train: {found}, which are in {splits}\n")


@pytest.mark.parametrize("words", prepares("nocaps"), ids=name_of)
def test_nocaps_is_prepared_from_its_official_files(words, tmp_path):
    test_nocaps.write(tmp_path)
    changed = [word.replace("=DIR", f"={tmp_path}").replace("=data", f"={tmp_path / 'data'}") for word in words]
    assert run([sys.executable, *changed[1:]]).stdout.endswith(": val 6, test 2\n")
