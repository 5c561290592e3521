"""Refuse to score retrieval by long captions where the text tower reads only the first words of many.

A caption with more tokens than `config.text.length` is cut. Of short captions that is a word here and there. Of a data
set whose builder says `LONG`, the score would be that of another task.
"""

import functools

from absl import logging

from bridge_jax.config import Config, ConfigError, Data, Text
from bridge_jax.data import prepared, text
from bridge_jax.data.datasets import photo_builder
from bridge_jax.data.records import Split, open_split

CUT_LIMIT = 0.1  # share of the captions of a split that may be cut


def open_whole(cfg: Config, split: str) -> Split:
    """Return the records of `split`, as `open_split` does.

    Raises ConfigError, naming the length that would do, where the data set is one of long captions and more than
    CUT_LIMIT of them are cut. Where fewer are, a warning says how many.
    """
    records = open_split(cfg.data, split)
    builder = prepared.builder_class(cfg.data.dataset, "config.data.dataset")
    if issubclass(builder, photo_builder.Builder) and builder.LONG:
        _check(cfg.data, cfg.text, split)
    return records


@functools.cache
def _check(data: Data, tower: Text, split: str) -> None:
    """Read the captions of a split once in a process."""
    tokenizer = text.load(data, tower)
    records = open_split(data, split)
    lengths = sorted(
        measured.length for record in records for measured in tokenizer.measure(record["captions"])
    )  # [CLS] and [SEP] included
    cut = sum(length > tower.length for length in lengths)
    if not cut:
        return
    cut_off = (
        f"split {split!r} of {data.dataset!r}: {cut / len(lengths):.1%} of its {len(lengths):,} captions have more "
        f"tokens than config.text.length {tower.length} (the longest has {lengths[-1]})"
    )
    if cut <= CUT_LIMIT * len(lengths):
        logging.warning("%s; they are cut", cut_off)
        return
    enough = lengths[-1 - int(CUT_LIMIT * len(lengths))]
    raise ConfigError(
        f"{cut_off}: a score would be of their first words; take a checkpoint with config.text.length {enough} or more "
        "(docs/data.md, Long captions)"
    )
