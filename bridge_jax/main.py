"""python -m bridge_jax.main --config=configs/NAME.py --workdir=DIR [--config.any.key=value] [--dry_run]"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from bridge_jax import config as configs

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, such as configs/shapes.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints and logs go; a run found there is gone on with.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print parameters, batch, FLOPs and memory of every stage, and stop.")
flags.mark_flags_as_required(["config"])

USER_ERROR = 2  # exit code where the user can mend it: config, data, files


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}: flags look like --config.seed=1")
    logging.set_verbosity(logging.WARNING)
    try:
        cfg = configs.parse(_CONFIG.value)
        if _DRY_RUN.value:
            from bridge_jax import dry_run

            dry_run.report(cfg)
        else:
            if not _WORKDIR.value:
                raise configs.ConfigError("--workdir is missing: give the folder for checkpoints and logs")
            from bridge_jax import train

            train.run(cfg, _WORKDIR.value)
    except configs.ConfigError as error:
        fail(str(error))
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def fail(message: str) -> None:
    """Print one line and exit with the user's code."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(USER_ERROR)


def run() -> None:
    """Parse the flags, a wrong config key being one clear line too, and go."""
    try:
        app.run(main)
    except (AttributeError, KeyError, TypeError, OSError) as error:
        if _CONFIG.present and _CONFIG.value is not None:
            raise
        fail(str(error))


if __name__ == "__main__":
    run()
