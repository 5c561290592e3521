"""The programs beside bridge_jax.main: python -m tools.NAME"""

import gc
import sys

if sys.argv[0] == "-m":  # Python is about to run one of them, and would look 0.25 s for garbage in what it imports
    gc.disable()  # until command_line.run
