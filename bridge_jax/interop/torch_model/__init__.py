"""The Python files of an exported folder, copied into it as they are: PyTorch and transformers, nothing of ours."""
