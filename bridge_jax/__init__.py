"""BRIDGE in JAX/Flax: two pretrained towers whose hidden states meet (arXiv 2511.11526)."""
