"""The programs beside bridge_jax.main: python -m tools.NAME"""

import gc
import sys

# `python -m tools.NAME` is starting: its imports would otherwise spend 0.2 s on garbage collection.
if sys.argv[0] == "-m":
    gc.disable()  # until command_line.run
