"""The parameters that a run starts from: random, pretrained, another run's checkpoint, or its own newest one."""

import jax
from absl import logging
from jax.sharding import Mesh

from bridge_jax import paths
from bridge_jax.config import Config, ConfigError, objectives
from bridge_jax.config.as_json import differences
from bridge_jax.data import questions
from bridge_jax.data.records import training_fingerprint
from bridge_jax.interop import hf_import
from bridge_jax.step import train_step
from bridge_jax.step.params import abstract_params, init_params, param_shapes
from bridge_jax.types import Params
from bridge_jax.workdir.checkpoint import Checkpoints
from bridge_jax.workdir.meta import check_answers

# A resumed run may differ in these keys: they change how long, where and how often, not what is computed.
MAY_CHANGE = ("bad_steps.action", "bad_steps.budget", "blocks", "log_every_steps", "watchdog_secs", "checkpoint",
              "cache_dir", "data.workers", "data.threads", "data.prefetch_batches", "data.data_dir",
              "data.broken_limit", "data.may_change", "evals", "mesh", "report", "sharding", "trackers",
              "vision.pretrained", "text.pretrained")  # fmt: skip

# Parameters that exist only for a run's losses, beside the heads. With init_from either side may lack them: new ones
# start fresh, surplus ones are dropped.
OF_TASKS = ("decoder/", "vision/mask_token", "loss_weights/")


def resume(cfg: Config, saves: Checkpoints, step: int, mesh: Mesh) -> Params:
    """Return the parameters of the newest checkpoint.

    Raises ConfigError if the config computes something else, or the prepared records are others.
    """
    changed = [
        line
        for line in differences(saves.meta(step).config, cfg)
        if not any(line.startswith((f"{key}:", f"{key}.")) for key in MAY_CHANGE)
    ]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ConfigError(
            f"{saves.folder.parent}: the checkpoint of step {step} was made with a different config "
            f"({'; '.join(changed[:3])}{more}): use the earlier config, or another --workdir"
        )
    check_answers(saves.meta(step), answers(cfg), f"{saves.folder}/{step}")
    before, now = saves.meta(step).data, training_fingerprint(cfg.data)
    if before not in ("", now) and not cfg.data.may_change:
        raise ConfigError(
            f"{saves.folder}/{step}: it was trained on records with the fingerprint {before}, those in "
            f"{cfg.data.data_dir!r} have {now}: give the same data, or go on with these by "
            "--config.data.may_change=true"
        )
    logging.info("resuming at step %d", step)
    return saves.restore_params(step, abstract_params(cfg, mesh))


def answers(cfg: Config) -> tuple[str, ...]:
    """Return the possible answers to questions, or () if no loss reads questions. Raises ConfigError."""
    return (
        questions.load_answers(cfg) if any(objectives.needs(name).reads == "questions" for name in cfg.losses) else ()
    )


def frozen_towers(cfg: Config, steps: list[train_step.StageStep]) -> set[str]:
    """Return the paths of the towers' parameters that no stage trains."""
    trained = {path for step in steps for path in step.trainable}
    known = paths.every(param_shapes(cfg))
    return {path for path in known if path.startswith(("vision/", "text/"))} - trained


def initial(cfg: Config, mesh: Mesh) -> Params:
    """Return the first parameters of a new run: random, then the pretrained towers or a whole checkpoint read in."""
    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract_params(cfg, mesh))
    params = jax.jit(lambda: init_params(cfg), out_shardings=placed)()
    if cfg.init_from:
        source, step = _source(cfg)
        theirs = source.config(step).losses.keys()
        shared = [objectives.needs(name) for name in cfg.losses.keys() & theirs]
        if any(loss.head and loss.reads == "questions" for loss in shared):  # a decoder can write new answers
            check_answers(source.meta(step), answers(cfg), f"config.init_from: {source.folder}/{step}")
        heads = [f"heads/{name}/" for name in cfg.losses.keys() | theirs if objectives.needs(name).head]
        return source.restore_params(step, params, parts=(*OF_TASKS, *heads))
    if cfg.vision.pretrained:
        params = {**params, "vision": hf_import.vision_params(cfg.vision.pretrained, cfg.vision)}
    if cfg.text.pretrained:
        params = {**params, "text": hf_import.text_params(cfg.text.pretrained, cfg.text)}
    return jax.device_put(params, placed)


def _source(cfg: Config) -> tuple[Checkpoints, int]:
    """Return the checkpoints of `init_from` and their best step. Raises ConfigError if there is none."""
    source = Checkpoints(cfg.init_from, read_only=True)
    step = source.best()
    if step is None:
        raise ConfigError(f"config.init_from: no checkpoint in {str(source.folder)!r}")
    return source, step


def fused_was_trained(cfg: Config, index: int) -> bool:
    """Return whether the fused heads were trained before stage `index`, in this run or the one it started from."""
    in_this_run = any(map(objectives.trains_fused, cfg.run_stages[:index]))
    if in_this_run or not cfg.init_from:
        return in_this_run
    source, step = _source(cfg)  # this hashes the whole checkpoint: once a stage, not at every save
    return source.meta(step).fused_trained
