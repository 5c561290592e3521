"""The programs beside bridge_jax.main: python -m tools.NAME"""

import gc
import sys

# Python is about to run one of them, and would look 0.2 s for garbage in what it imports.
if sys.argv[0] == "-m":
    gc.disable()  # until command_line.run
