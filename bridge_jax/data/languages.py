"""Tell captions in other languages than those asked for, by py3langid (langid.py: Lui, Baldwin, ACL 2012).

    others = Others("de,en")
    others.holds("un perro corre por el campo")     True

A caption is in another language only where py3langid gives that one more than half of the probability: names and texts
of a word or two get little of it. Of 3,000 captions of Flickr8k it takes 1 for no English, of their first four words
17.
"""

import functools
from typing import Any

from bridge_jax.config import ConfigError

_LEAST = 0.5  # probability of the other language
_READ = 1000  # characters of a caption: more say nothing more, and take their time


@functools.cache
def _model() -> Any:
    """Return py3langid's own model, which takes a second to unpack. Raises ConfigError where it is not there."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ModuleNotFoundError as error:
        raise ConfigError("--languages needs an extra: pip install 'bridge_jax[language]'") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class Others:
    """The languages but some, which are given by their ISO 639 codes with commas between."""

    def __init__(self, codes: str):
        """Raises ConfigError where a code is not known, or py3langid is not there."""
        self._model = _model()
        self._codes = codes.split(",")
        if unknown := sorted(set(self._codes) - set(map(str, self._model.labels))):
            raise ConfigError(
                f"--languages: {unknown[0]!r} is no language that py3langid knows; expected ISO 639 codes such as en,de"
            )

    def holds(self, caption: str) -> bool:
        """Return whether a caption is in one of these languages."""
        code, probability = self._model.classify(caption[:_READ])
        return probability > _LEAST and code not in self._codes
