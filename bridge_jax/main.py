"""python -m bridge_jax.main --config=configs/NAME.py --workdir=DIR [--config.any.key=value] [--dry_run]"""

from absl import flags

from bridge_jax import command_line
from bridge_jax.config import ConfigError
from bridge_jax.outcome import Outcome
from bridge_jax.stop import Stop

_CONFIG = command_line.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints and logs go; a run found there is gone on with.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print parameters, batch, FLOPs and memory of every stage, and stop.")


def main(argv: list[str]) -> None:
    del argv
    cfg = command_line.read_config(_CONFIG)
    if _DRY_RUN.value:
        from bridge_jax import dry_run  # neither is imported where the command line is wrong: a second instead of five

        dry_run.report(cfg)
    elif _WORKDIR.value:
        with Outcome(_WORKDIR.value) as outcome, Stop(outcome) as stop:  # before the import, which takes seconds
            from bridge_jax import train

            train.run(cfg, _WORKDIR.value, stop)
    else:
        raise ConfigError("--workdir is missing: give the folder for checkpoints and logs")


if __name__ == "__main__":
    command_line.run(main)
