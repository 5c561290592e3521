"""The parts of tools.ablate: the grids, their fair rows, one cell, the statistics and the page."""
