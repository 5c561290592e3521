"""The hashes of prepared data: equal wherever the same files lie, others where anything is read otherwise."""

import json
import shutil

from bridge_jax import config
from bridge_jax.data import records
from tests import runs

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "A", "dog")


def test_a_copy_has_the_same_and_other_records_have_not(tiny, tmp_path):
    settings = tiny()
    here = records.training_fingerprint(config.parse(settings).data)
    shutil.copytree(settings.data.data_dir, tmp_path / "copy")
    settings.data.data_dir = str(tmp_path / "copy")
    assert records.training_fingerprint(config.parse(settings).data) == here
    settings.data.data_dir = str(runs.prepare_small_shapes(tmp_path / "other", seed=1))
    assert records.training_fingerprint(config.parse(settings).data) != here


def test_a_vocabulary_counts_with_how_it_reads_capitals(tiny, tmp_path):
    settings = tiny()
    settings.data.vocabulary = str(tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    found = set()
    for lower in (True, False):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
        found.add(records.run_fingerprint(config.parse(settings)))
    (tmp_path / "vocab.txt").write_text("\n".join((*WORDS, "cat")))
    found.add(records.run_fingerprint(config.parse(settings)))
    assert len(found) == 3
