"""python -m bridge_jax.main --config=configs/NAME.py --workdir=DIR [--config.any.key=value] [--dry_run]"""

from absl import flags

from bridge_jax.config import ConfigError
from bridge_jax.run import command_line
from bridge_jax.run.stop import Stop
from bridge_jax.workdir.outcome import Outcome

_CONFIG = command_line.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints and logs; an existing run there is resumed.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    "",
    "HOST:PORT of process 0, in a run of several processes. Detected on a TPU slice, GKE and Slurm.",
)
_PROCESSES = flags.DEFINE_integer("num_processes", -1, "Number of processes of the run.")
_PROCESS = flags.DEFINE_integer("process_id", -1, "Index of this process, from 0.")
_MEET_SECS = flags.DEFINE_float("meet_secs", 300.0, "Seconds that the processes wait for each other at the start.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print parameters, batch, FLOPs and memory of each stage, then exit.")


def main(argv: list[str]) -> None:
    del argv
    cfg = command_line.read_config(_CONFIG)
    if _DRY_RUN.value:
        from bridge_jax.plan import dry_run  # imported late: a wrong command line fails in one second instead of five

        dry_run.report(cfg)
    elif _WORKDIR.value:
        from bridge_jax.run import distributed

        distributed.start(cfg, _COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _MEET_SECS.value)
        with Outcome(_WORKDIR.value) as outcome, Stop(outcome) as stop:  # before the import, which takes seconds
            from bridge_jax.run import train

            train.run(cfg, _WORKDIR.value, stop)
        from bridge_jax.run import finish

        finish.report(cfg, _WORKDIR.value)
    else:
        raise ConfigError("--workdir is missing: name the folder for checkpoints and logs")


if __name__ == "__main__":
    command_line.run(main)
