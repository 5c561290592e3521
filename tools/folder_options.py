"""The flags of `--dataset=folder`, which `tools.prepare_data` and `tools.doctor` share."""

from absl import flags

from bridge_jax.data.datasets.folder import Options
from bridge_jax.data.datasets.lists import Columns

_LIST = flags.DEFINE_string("list", "", "folder: the list to read, where there are several; a path within --raw_dir.")
_IMAGE_COLUMN = flags.DEFINE_string("image_column", "", "folder: the list's column with the names of the photos.")
_CAPTION_COLUMN = flags.DEFINE_string("caption_column", "", "folder: the list's column with the captions.")
_SPLIT_COLUMN = flags.DEFINE_string("split_column", "", "folder: the list's column with train, val or test.")
_VAL_SHARE = flags.DEFINE_float("val_share", 0.1, "folder: share of the photos for val where no column says it.")
_TEST_SHARE = flags.DEFINE_float("test_share", 0.1, "folder: share of the photos for test where no column says it.")


def given() -> Options:
    """Return the options as the flags give them."""
    columns = Columns(_IMAGE_COLUMN.value, _CAPTION_COLUMN.value, _SPLIT_COLUMN.value)
    return Options(columns, _VAL_SHARE.value, _TEST_SHARE.value, _LIST.value)
