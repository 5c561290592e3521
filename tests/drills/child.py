"""bridge_jax.main, watched: the file of DRILL_LOG gets a line for every phase it enters and every batch it draws.

The program is what users run; it is only listened to. With DRILL_STALL=data or =save the batch of a stage's step 3 or
the hashing of every checkpoint hangs, as on a file system that does not answer; with =slow both take half a second
longer; with =pickle Python reports everything that is unpickled.
"""

import os
import pickle
import sys
import threading
import time
from pathlib import Path

from bridge_jax import main
from bridge_jax.run import command_line
from bridge_jax.run.stop import Stop
from bridge_jax.workdir import manifest
from bridge_jax.workdir.outcome import Outcome

LOG = open(os.environ["DRILL_LOG"], "a", encoding="utf-8", buffering=1)  # noqa: SIM115, it lasts as long as the program
STALL = os.environ.get("DRILL_STALL", "")
SLOW_SECS = 0.5
real_enter, real_book, real_begin, real_write = Stop.__enter__, Outcome._book, Outcome.begin, manifest.write


def enter(self):
    entered = real_enter(self)
    print("import", file=LOG)
    return entered


def book(self, what):
    if what != self.doing:
        print(what, file=LOG)
    return real_book(self, what)


def begin(self, **keywords):
    watch_batches()
    print("begun", file=LOG)
    return real_begin(self, **keywords)


def write(folder):
    if STALL == "save":
        print("stalled", file=LOG)
        threading.Event().wait()
    if STALL == "slow":
        time.sleep(SLOW_SECS)
    return real_write(folder)


def audit(event, arguments):
    """Log every class that is unpickled in this process, through Python's audit hook."""
    if event == "pickle.find_class":
        print("unpickled", *arguments, file=LOG)


def watch_batches():
    from bridge_jax.data import pipeline

    real_train, real_batches, stage = pipeline.train, pipeline.batches, []

    def train(*arguments, **keywords):
        stage[:] = [keywords["seed_stream"]]
        return real_train(*arguments, **keywords)

    def batches(ds, start_step, data):
        iterator = real_batches(ds, start_step, data)
        try:
            for step, batch in enumerate(iterator, start_step):
                if STALL == "data" and step == 3:
                    print("stalled", file=LOG)
                    threading.Event().wait()
                if STALL == "slow":
                    time.sleep(SLOW_SECS)
                print("batch", stage[0], step, *batch.image_ids, file=LOG)
                yield batch
        finally:
            iterator.close()

    pipeline.train, pipeline.batches = train, batches


Stop.__enter__, Outcome._book, Outcome.begin, manifest.write = enter, book, begin, write
if STALL == "pickle":
    sys.addaudithook(audit)
    pickle.loads(pickle.dumps(Path("seen")))  # so that what the hook does not see is not there
command_line.run(main.main)
