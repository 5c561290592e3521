"""Print for every parameter, one a line, whether it trains, how fast, whether it decays, and where it lies.

    python -m tools.show_params --config=configs/shapes.py

Columns: path, shape, the mesh axis that each dimension is spread over (`-`: none), and a column for each stage of the
config, in its order: `frozen`, or the factor on the learning rate with `decay` or `-`. The command line overrides rules
as everywhere, such as --config.stages.align.top_blocks=4. tests/golden/ holds the table of every config, so a change to
a rule shows all its effects.

Exit code 0: the table is on standard output; 2: the config cannot work, with one line that says why.
"""

from bridge_jax import paths, rules
from bridge_jax.config import Config
from bridge_jax.run import command_line
from bridge_jax.step import optim
from bridge_jax.step.params import param_shapes

_CONFIG = command_line.define_config()


def table(cfg: Config) -> str:
    """Return the table as text. Raises ConfigError where a rule does not fit the parameters."""
    shapes = paths.flatten(param_shapes(cfg))
    known = paths.every(paths.unflatten(shapes))
    decayed = optim.decayed(cfg, known)
    columns = [["path", *known], ["shape", *(str(shapes[path].shape).replace(" ", "") for path in known)]]
    spread = rules.match(cfg.sharding, known, "config.sharding")
    columns.append(["mesh", *(",".join(axis or "-" for axis in spread[path]) or "-" for path in known)])
    for stage in cfg.run_stages:
        trainable = set(optim.trainable_paths(cfg, stage, known))
        factors = optim.lr_factors(stage, known)
        cells = {path: f"x{factors[path]:g} {'decay' if decayed[path] else '-'}" for path in trainable}
        columns.append([stage.name, *(cells[path] if path in trainable else "frozen" for path in known)])
    widths = [max(map(len, column)) for column in columns]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in zip(*columns, strict=True)]
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> None:
    """Print the table of --config."""
    del argv
    print(table(command_line.read_config(_CONFIG)), end="")


if __name__ == "__main__":
    command_line.run(main)
