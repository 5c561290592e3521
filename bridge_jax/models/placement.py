"""Where the towers meet: the blocks that an interaction layer follows (docs/method.md 1.4)."""

from bridge_jax.config import Config


def bridged_blocks(placement: str, layers_Q: int, depth: int) -> tuple[int, ...]:
    """Return the 0-based blocks, in a tower of `depth` blocks, that an interaction layer follows (Table 6).

    >>> [bridged_blocks(p, 2, 6) for p in ("top", "middle", "early", "staggered", "after")]
    [(4, 5), (2, 3), (0, 1), (2, 5), (5, 5)]
    """
    starts = {"top": depth - layers_Q, "middle": (depth - layers_Q) // 2, "early": 0}
    if placement in starts:
        return tuple(range(starts[placement], starts[placement] + layers_Q))
    if placement == "staggered":
        return tuple(round((q + 1) * depth / layers_Q) - 1 for q in range(layers_Q))
    return (depth - 1,) * layers_Q


def meeting_blocks(cfg: Config) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the bridged blocks of the image tower and of the text tower; unequal depths are aligned at the top."""
    common_depth = min(cfg.vision.depth, cfg.text.depth)
    blocks = bridged_blocks(cfg.bridge.placement, cfg.bridge.layers, common_depth)
    return tuple(b + cfg.vision.depth - common_depth for b in blocks), tuple(
        b + cfg.text.depth - common_depth for b in blocks
    )


def is_lower(path: str, cfg: Config) -> bool:
    """Return whether the lower pass reads this parameter."""
    tower, _, rest = path.partition("/")
    if tower not in ("vision", "text"):
        return False
    first = meeting_blocks(cfg)[0 if tower == "vision" else 1]
    if not first or cfg.bridge.placement == "after":
        return True
    name = rest.partition("/")[0]
    if name.startswith("block_"):
        return int(name.removeprefix("block_")) <= first[0]
    return (tower, name) not in (("vision", "norm"), ("text", "final_norm"))
