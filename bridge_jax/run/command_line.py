"""The frame of every command: an error becomes one line on stderr and the exit code of its cause.

Only an error in the program itself shows a traceback. `workdir/outcome.py` lists the causes.

CONFIG = command_line.define_config()

def main(argv): ... command_line.read_config(CONFIG) ...

command_line.run(main)
"""

import atexit
import gc
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from bridge_jax.config import Config, ConfigError, parse
from bridge_jax.workdir import outcome


def run(main: Callable[[list[str]], None], positional: int = 0) -> NoReturn:
    """Parse the flags and run `main` with the other words: the program's name and at most `positional` arguments."""

    def guarded(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        gc.freeze()  # imported modules stay
        gc.enable()  # see tools/__init__.py
        # Tracing a model makes millions of objects and few cycles: this saves a tenth of the time to the first step.
        gc.set_threshold(10_000, 50)
        atexit.register(gc.freeze)  # at exit Python would scan all objects again: 0.4 s of a small run
        try:
            if len(argv) > 1 + positional:
                word = argv[1 + positional]
                raise ConfigError(f"unexpected argument {word!r}: flags look like --config.seed=1")
            main(argv)
        except KeyboardInterrupt:
            fail("interrupted; the same command resumes from the last checkpoint, if there is one", outcome.INTERRUPTED)
        except BaseException as error:
            cause = outcome.cause_of(error)
            if cause is outcome.INTERNAL:  # so is SystemExit
                raise
            print(outcome.last_line(error), file=sys.stderr, flush=True)
            if cause is outcome.STORAGE:  # Orbax's threads wait for minutes for a folder that could not be made
                outcome.exit_now(cause.exit_code)
            sys.exit(cause.exit_code)

    app.run(guarded, flags_parser=parse_flags)


def required(flag: flags.FlagHolder) -> str:
    """Return the text of a flag. Raises ConfigError if it is missing."""
    if not flag.value:
        raise ConfigError(f"--{flag.name} is missing: {flags.FLAGS[flag.name].help}")
    return flag.value


def define_config(help_text: str = "The experiment, such as configs/shapes.py.") -> flags.FlagHolder:
    """Define --config, and with it --config.any.key."""
    return config_flags.DEFINE_config_file("config", None, help_text)


def read_config(flag: flags.FlagHolder) -> Config:
    """Return the checked config of --config. Raises ConfigError."""
    if flag.value is None:
        raise ConfigError("--config is missing: name an experiment, such as --config=configs/shapes.py")
    try:
        return parse(flag.value)
    except OSError as error:  # ml_collections raises it at the first access to the config, not when it parses the flag
        raise ConfigError(f"--config: {_one_line(error)}") from error


def parse_flags(argv: list[str]) -> list[str]:
    """Return the words of `argv` that are no flags. A wrong flag or config key ends the program with one line."""
    try:
        return flags.FLAGS(argv)
    except OSError as error:
        fail(f"--config: {_one_line(error)}", outcome.USER)
    except (AttributeError, KeyError) as error:
        fail(f"--config: not found: {_one_line(error)}", outcome.USER)
    except (flags.Error, TypeError, ValueError) as error:
        fail(_one_line(error), outcome.USER)


def _one_line(error: object) -> str:
    while isinstance(error, Exception) and error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    if "Traceback" in str(text):  # an error inside a config file, which ml_collections passes on as text
        *above, text = str(text).strip().splitlines()
        where = [line.strip() for line in above if line.strip().startswith("File ")]
        text = f"{text} ({where[-1]})" if where else text
    return " ".join(str(text).split()).rpartition("[Errno 2] ")[2]


def fail(message: str, cause: outcome.Cause) -> NoReturn:
    """Print one line and exit."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(cause.exit_code)
