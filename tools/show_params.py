"""Print what trains, how fast, what decays and where it lies, a line a parameter.

    python -m tools.show_params --config=configs/shapes.py

Columns: path, shape, the mesh axis that each dimension is spread over (`-`: none), and for each stage of the config, in
its order, `frozen` or the factor on the learning rate and `decay` or `-`. Rules are overridden on the command line as
everywhere, such as --config.stages.align.top_blocks=4. tests/golden/ holds the table of every config, so that a change
of a rule shows all that it changes.

Exit code 0: the table is on standard output; 2: the config cannot work, with one line that says why.
"""

from bridge_jax import command_line, optim, rules, step
from bridge_jax import config as configs

_CONFIG = command_line.define_config()


def table(cfg: configs.Config) -> str:
    """Return the table as text. Raises ConfigError where a rule does not fit the parameters."""
    shapes = optim.flatten(step.shapes(cfg))
    paths = rules.paths(optim.unflatten(shapes))
    decayed = optim.decayed(cfg, paths)
    columns = [["path", *paths], ["shape", *(str(shapes[path].shape).replace(" ", "") for path in paths)]]
    spread = rules.match(cfg.sharding, paths, "config.sharding")
    columns.append(["mesh", *(",".join(axis or "-" for axis in spread[path]) or "-" for path in paths)])
    for name in cfg.stage_order:
        trainable = set(optim.trainable_paths(cfg, name, paths))
        factors = optim.lr_factors(cfg, name, paths)
        cells = {path: f"x{factors[path]:g} {'decay' if decayed[path] else '-'}" for path in trainable}
        columns.append([name, *(cells[path] if path in trainable else "frozen" for path in paths)])
    widths = [max(map(len, column)) for column in columns]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in zip(*columns, strict=True)]
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> None:
    """Print the table of --config."""
    del argv
    print(table(command_line.read_config(_CONFIG)), end="")


if __name__ == "__main__":
    command_line.run(main)
