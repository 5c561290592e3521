"""The filters of `tools.prepare_data`, as flags."""

from absl import flags

from bridge_jax.data.filters import Filters

_OF = "folder, cc3m, cc12m: of train, leave out"
_MIN_SIDE_PX = flags.DEFINE_integer("min_side_px", 0, f"{_OF} pictures with a shorter side, in px.", lower_bound=0)
_MAX_ASPECT = flags.DEFINE_float("max_aspect", 0.0, f"{_OF} pictures whose sides have a greater ratio; 0: none.")
_MIN_WORDS = flags.DEFINE_integer("min_words", 0, f"{_OF} captions of fewer words.", lower_bound=0)
_MAX_WORDS = flags.DEFINE_integer("max_words", 0, f"{_OF} captions of more words; 0: none.", lower_bound=0)
_LANGUAGES = flags.DEFINE_list(
    "languages", [], f"{_OF} captions in other languages, by ISO 639 codes such as en,de; empty: none."
)
_MAX_CAPTION_PHOTOS = flags.DEFINE_integer(
    "max_caption_photos", 0, f"{_OF} captions that more photos of a tar or a list share; 0: none.", lower_bound=0
)
_DROP_NEAR_DUPLICATES = flags.DEFINE_bool(
    "drop_near_duplicates", False, f"{_OF} pictures that look like an earlier one, by their perceptual hash."
)


def given() -> Filters:
    """Return the filters as the flags give them. Raises ConfigError."""
    filters = Filters(
        _MIN_SIDE_PX.value,
        _MAX_ASPECT.value,
        _MIN_WORDS.value,
        _MAX_WORDS.value,
        ",".join(sorted(set(_LANGUAGES.value))),
        _MAX_CAPTION_PHOTOS.value,
        _DROP_NEAR_DUPLICATES.value,
    )
    filters.check()
    return filters
