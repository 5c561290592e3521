"""Kernels for TPUs, each with a plain form elsewhere in `models/` that gives the same numbers."""
