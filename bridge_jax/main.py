"""python -m bridge_jax.main --config=configs/NAME.py --workdir=DIR [--config.any.key=value] [--dry_run]"""

import sys
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from bridge_jax import config as configs

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, such as configs/shapes.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints and logs go; a run found there is gone on with.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print parameters, batch, FLOPs and memory of every stage, and stop.")

USER_ERROR = 2  # exit code where the user can mend it: flags, config, data, files
INTERRUPTED = 130  # what shells give to a program ended by Ctrl-C


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise configs.ConfigError(f"unexpected argument {argv[1]!r}: flags look like --config.seed=1")
        cfg = _read_config()
        if _DRY_RUN.value:
            from bridge_jax import dry_run

            dry_run.report(cfg)
        elif _WORKDIR.value:
            from bridge_jax import train

            train.run(cfg, _WORKDIR.value)
        else:
            raise configs.ConfigError("--workdir is missing: give the folder for checkpoints and logs")
    except configs.ConfigError as error:
        fail(str(error), USER_ERROR)
    except FloatingPointError as error:
        fail(str(error), 1)
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on from the last checkpoint", INTERRUPTED)


def _read_config() -> configs.Config:
    """Return the checked config of the flags. Raises ConfigError."""
    if _CONFIG.value is None:
        raise configs.ConfigError("--config is missing: give an experiment, such as --config=configs/shapes.py")
    try:
        return configs.parse(_CONFIG.value)
    except OSError as error:  # ml_collections raises it at the first look at the config, not when it parses the flag
        raise configs.ConfigError(f"--config: {_one_line(error)}") from error


def parse_flags(argv: list[str]) -> list[str]:
    """Return what is left of `argv`; a wrong flag or config key ends the program with one clear line."""
    try:
        return flags.FLAGS(argv)
    except OSError as error:
        fail(f"--config: {_one_line(error)}", USER_ERROR)
    except (AttributeError, KeyError) as error:
        fail(f"--config: not found: {_one_line(error)}", USER_ERROR)
    except (flags.Error, TypeError, ValueError) as error:
        fail(_one_line(error), USER_ERROR)


def _one_line(error: object) -> str:
    while isinstance(error, Exception) and error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).split()).rpartition("[Errno 2] ")[2]


def fail(message: str, code: int) -> NoReturn:
    """Print one line and exit."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
