"""The Python files of an exported folder, copied into it unchanged: they need PyTorch and transformers alone."""
