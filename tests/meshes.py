"""Run programs on many CPU devices: python -m tests.meshes OUT DATAxFSDPxTENSOR[:kernel]... (from test_sharding).

Writes OUT/<mesh>.npz: the losses, the first step's gradients as Adam saw them, and the parameters after three steps,
with attention by the kernel where the mesh says so, then in scanned and rematerialised blocks;
OUT/contrast.npz: gradients and memory of the contrastive loss, whole and in chunks; OUT/ranked.npz: the ranking of a
split on each mesh; OUT/matched.npz: match logits of pairs on two meshes; and OUT/gathered.npz: the hidden states that
each mesh's step sends between devices, and those of a step that mines in groups.
"""

import dataclasses
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bridge_jax import paths
from bridge_jax.config import Config, Mesh
from bridge_jax.losses import itc
from bridge_jax.models.layers import l2_normalise
from bridge_jax.run import ranking
from bridge_jax.step import sharding, train_step
from bridge_jax.step.params import abstract_params
from bridge_jax.step.predict import build_predict
from bridge_jax.types import Batch, Lower, Outputs
from tests import tiny

LOSSES = ("itc", "token_itc", "fused_itc", "itm", "cycle")  # the masked losses read one row at a time
GROUPS = dict(token_itc=dict(weight=1.0, group=2))

# softmax(q (k + b)) = softmax(q k + q b): this bias has no gradient but rounding, which Adam scales up to a whole step.
TRAIN = (("(vision|text)/.*/attention/key/bias", False), (".*", True))


def config(sizes: tuple[int, ...] = (1, 1, 1), kernel: bool = False) -> Config:
    """Return the experiment: dropout on, two blocks a tower."""
    return tiny.config(
        stage=dict(batch_size=8, losses=LOSSES, train=TRAIN),
        vision=dict(depth=2),
        text=dict(depth=2, dropout=0.1),
        bridge=dict(layers=1, attention_dropout=0.1, output_dropout=0.1),
        mesh=dict(zip(sharding.AXES, sizes, strict=True)),
        losses=GROUPS,
        blocks=dict(kernels="interpret", scan=True, remat="full") if kernel else dict(kernels="plain"),
    )


def run(mesh: str) -> tuple[dict[str, np.ndarray], str]:
    """Return the step's results as path -> array on a mesh of the first devices, and the compiled step's text."""
    mesh, _, kernel = mesh.partition(":")
    sizes = tuple(int(size) for size in mesh.split("x"))
    cfg = config(sizes, bool(kernel))
    mesh = sharding.make_mesh(cfg.mesh, jax.devices()[: np.prod(sizes)])
    stage_step = train_step.build(cfg, cfg.stages["train"], 0, mesh)
    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract_params(cfg, mesh))
    state = stage_step.init(jnp.int32(0), jax.device_put(tiny.params(cfg), placed))
    batches = [sharding.put_batch(tiny.batch(cfg, 8, seed=index), mesh) for index in range(3)]
    program, arrays = stage_step.compiled(state, batches[0]), {}
    for index, batch in enumerate(batches):
        state, metrics = program(state, batch)
        arrays |= {f"{index}/{name}": value for name, value in metrics.items()}
        if index == 0:
            moments = state.opt_state[1].mu
            arrays |= {f"gradient/{path}": value / 0.1 for path, value in jax.device_get(moments).items()}
    arrays |= {f"parameter/{path}": value for path, value in paths.flatten(state.params).items()}
    return jax.device_get(arrays), program.as_text()


def contrast(columns: int, B: int, run: bool) -> dict[str, np.ndarray]:
    """Return the gradients of the contrastive loss of B pairs over all devices, and its memory in bytes on one."""
    mesh = sharding.make_mesh(Mesh(data=-1, fsdp=1, tensor=1))
    rows, whole = sharding.over_rows(mesh), sharding.replicated(mesh)

    def value(text, image, scale, image_ids):
        outputs = Outputs(logit_scale=scale, unimodal_text=text, unimodal_image=image)
        return itc.loss(outputs, Batch(image_ids=image_ids, text_mask=None), columns).mean

    placed = (rows, rows, whole)
    gradients = jax.jit(jax.grad(value, (0, 1, 2)), in_shardings=(*placed, rows), out_shardings=placed)
    draw = np.random.default_rng(0)
    inputs = [l2_normalise(jnp.float32(draw.normal(size=(B, 256)))) for _ in range(2)]
    inputs += [jnp.float32(50.0), jnp.int32(draw.integers(0, B // 2, B))]
    compiled = gradients.lower(*inputs).compile()
    arrays = {"bytes": np.array(compiled.memory_analysis().temp_size_in_bytes)}
    if run:
        inputs = jax.device_put(inputs, [*placed, rows])
        arrays |= dict(zip(("text", "image", "scale"), jax.device_get(compiled(*inputs)), strict=True))
    return {f"{columns}|{name}": value for name, value in arrays.items()}


def ranked(sizes: tuple[int, ...]) -> np.ndarray:
    """Return the ranking of 40 pairs, embedded and searched on a mesh of the first devices."""
    cfg = dataclasses.replace(config(sizes), mining=dataclasses.replace(config().mining, source="split", ranks=(1, 4)))
    mesh, batch = sharding.make_mesh(cfg.mesh, jax.devices()[: np.prod(sizes)]), tiny.batch(cfg, 40)
    predict, params = build_predict(cfg, mesh), tiny.params(cfg)
    lower = predict.lower_text(params, batch.ids, batch.text_mask)
    texts = np.asarray(predict.unimodal_text(params, lower, batch.text_mask))
    images = np.asarray(predict.unimodal_image(params, predict.lower_image(params, batch.images)))
    numbers = np.arange(40)
    split = ranking.Split(numbers, numbers, numbers, np.ones(40, bool))
    found = ranking.rank(cfg, split, ranking.Embedded(images, np.ones(40, bool), texts), mesh, lambda *_: None)
    return np.stack([found.images, found.texts])


def matched(sizes: tuple[int, ...]) -> np.ndarray:
    """Return the match logits of 8 pairs, gathered from states that are whole on every device of a mesh."""
    cfg = config(sizes)
    mesh, batch = sharding.make_mesh(cfg.mesh, jax.devices()[: np.prod(sizes)]), tiny.batch(cfg, 8)
    predict, params = build_predict(cfg, mesh), tiny.params(cfg)
    lower = Lower(
        image=np.asarray(predict.lower_image(params, batch.images))[:3],
        text=np.asarray(predict.lower_text(params, batch.ids, batch.text_mask))[:5],
        text_mask=batch.text_mask[:5],
    )
    return np.asarray(predict.match(params, predict.place(lower), np.arange(8) % 3, np.arange(8) % 5))


def in_groups() -> str:
    """Return the text of a compiled step over eight devices that mines in groups of two rows."""
    stage = dict(batch_size=16, losses=LOSSES, train=TRAIN)
    cfg = tiny.config(mining=dict(group=2), stage=stage, losses=GROUPS)
    mesh = sharding.make_mesh(cfg.mesh)
    stage_step = train_step.build(cfg, cfg.stages["train"], 0, mesh)
    state = jax.eval_shape(stage_step.init, jax.ShapeDtypeStruct((), jnp.int32), abstract_params(cfg, mesh))
    return stage_step.compiled(state, tiny.batch(cfg, 16)).as_text()


def gathered(program: str) -> list[str]:
    """Return the operations of a compiled step that send hidden states, [rows, tokens, width], between devices."""
    cfg = config()
    states = rf"\w+\[(?:\d+,){{2,}}(?:{cfg.vision.width}|{cfg.text.width}|{cfg.bridge.shared_width})\]"
    return re.findall(rf"= {states}\S* (?:all-gather|all-to-all|collective-permute).*", program)


if __name__ == "__main__":
    folder, *meshes = sys.argv[1:]
    small = contrast(0, 1024, True) | contrast(100, 1024, True)
    large = contrast(0, 32_768, False) | contrast(1024, 32_768, False) | contrast(16, 32_768, False)
    np.savez(Path(folder) / "contrast.npz", **{f"1024|{k}": v for k, v in small.items()}, **large)
    programs = {"groups": in_groups()}
    for mesh in meshes:
        arrays, programs[mesh] = run(mesh)
        np.savez(Path(folder) / f"{mesh}.npz", **{name.replace("/", "|"): v for name, v in arrays.items()})
    sizes = {mesh: tuple(int(size) for size in mesh.split("x")) for mesh in ("1x1x1", "2x1x1", "8x1x1", "2x2x2")}
    np.savez(Path(folder) / "ranked.npz", **{mesh: ranked(each) for mesh, each in sizes.items()})
    np.savez(Path(folder) / "matched.npz", **{mesh: matched(sizes[mesh]) for mesh in ("1x1x1", "2x2x2")})
    sent = {name: np.array(gathered(program), str) for name, program in programs.items()}
    np.savez(Path(folder) / "gathered.npz", **sent)
