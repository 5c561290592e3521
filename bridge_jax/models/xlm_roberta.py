"""The text tower XLM-RoBERTa (arXiv 1911.02116): a RoBERTa over 100 languages, with a vocabulary of its own.

multilingual-e5-base and -large are such towers. multilingual-e5-small has the same vocabulary on a `bert` tower.
"""

from bridge_jax.models import roberta


class Tower(roberta.Tower):
    """RoBERTa's blocks and positions."""
