"""The rules of the architecture as tables: rooms and floors, the home of each dependency, exceptions.

`tests/test_architecture.py` enforces them, and docs/architecture.md is made from them. To add a file, place it in
`ROOMS` if no line of it fits. To break a rule, change it here and say why in the commit.
"""

from typing import NamedTuple


class Room(NamedTuple):
    """A place for files. A file imports from lower floors and from its own room, never from a room beside it."""

    floor: int
    meaning: str
    patterns: tuple[str, ...]  # `*` stays inside a folder; a pattern without `*` wins


ROOMS = {
    "glossary": Room(
        0,
        "shape letters, shared records, randomness, paths",
        ("bridge_jax/__init__.py", "bridge_jax/types.py", "bridge_jax/rng.py", "bridge_jax/paths.py"),
    ),
    "configs": Room(0, "one experiment a file", ("configs/*.py",)),
    "torch_model": Room(0, "the model in PyTorch, as every export ships it", ("bridge_jax/interop/torch_model/*.py",)),
    "config": Room(1, "keys of an experiment, contracts of losses and evaluators", ("bridge_jax/config/*.py",)),
    "rules": Room(2, "the matcher of path rules", ("bridge_jax/rules.py",)),
    "data": Room(2, "files -> the batch of a step", ("bridge_jax/data/*.py", "bridge_jax/data/datasets/*.py")),
    "models": Room(
        2, "towers, bridge, heads, decoder, kernels", ("bridge_jax/models/*.py", "bridge_jax/models/kernels/*.py")
    ),
    "scores": Room(2, "the metrics, in plain NumPy", ("bridge_jax/evals/scores/*.py",)),
    "analysis": Room(2, "measures of what a model learned, in plain NumPy", ("bridge_jax/analysis/*.py",)),
    "losses": Room(3, "one objective a file", ("bridge_jax/losses/*.py",)),
    "step": Room(3, "one training step on a mesh, and its inference twin", ("bridge_jax/step/*.py",)),
    "workdir": Room(
        3,
        "all files that a run writes; a kill loses nothing",
        ("bridge_jax/workdir/*.py", "bridge_jax/workdir/trackers/*.py"),
    ),
    "evals": Room(4, "one evaluator a file", ("bridge_jax/evals/*.py",)),
    "interop": Room(4, "weights in, models out", ("bridge_jax/interop/*.py",)),
    "plan": Room(4, "the cost of a step on a machine that is not here", ("bridge_jax/plan/*.py",)),
    "report": Room(4, "the page of a run, its charts made by hand", ("bridge_jax/report/*.py",)),
    "index": Room(5, "search in a folder of photos, and its page", ("bridge_jax/index/*.py",)),
    "run": Room(5, "the training loop: its start, its output, its stop", ("bridge_jax/run/*.py",)),
    "main": Room(6, "the command that trains", ("bridge_jax/main.py",)),
    "tools": Room(6, "every other command", ("tools/*.py", "tools/ablation/*.py")),
}

# Dependency -> the only files that may import it. A dependency that is not named here may be imported anywhere.
HOMES = {
    "tensorflow": [],
    "torch": ["bridge_jax/interop/torch_model/*.py", "bridge_jax/interop/torch_onnx.py"],
    "onnxruntime": ["bridge_jax/interop/torch_onnx.py"],
    "onnxscript": ["tools/export_onnx.py"],
    "transformers": [
        "bridge_jax/interop/torch_model/*.py",
        "bridge_jax/interop/torch_onnx.py",
        "tools/rivals.py",
    ],
    "sentence_transformers": ["tools/rivals.py"],
    "mteb": [],  # tests/interop
    "simplejpeg": ["tools/bench_data.py"],
    "pickle": [],
    "cloudpickle": [],
    "dill": [],
    "joblib": [],
    "marshal": [],
    "shelve": [],
    "grain": ["bridge_jax/data/pipeline.py"],
    "orbax": ["bridge_jax/workdir/checkpoint.py"],
    "tensorboardX": ["bridge_jax/workdir/trackers/tensorboard.py"],
    "wandb": ["bridge_jax/workdir/trackers/wandb.py"],
    "mlflow": ["bridge_jax/workdir/trackers/mlflow.py"],
    "trackio": ["bridge_jax/workdir/trackers/trackio.py"],
    "safetensors": ["bridge_jax/interop/hf_import.py", "bridge_jax/interop/torch_export.py"],
    "huggingface_hub": [
        "bridge_jax/interop/hf_import.py",
        "bridge_jax/interop/hub.py",
        "bridge_jax/interop/model_card.py",
    ],
    "tokenizers": ["bridge_jax/data/text.py"],
    "tensorflow_datasets": ["bridge_jax/data/*.py", "bridge_jax/data/datasets/*.py", "tools/*.py"],
    "PIL": [
        "bridge_jax/data/augment.py",
        "bridge_jax/data/encode.py",
        "bridge_jax/data/image.py",
        "bridge_jax/data/shapes.py",
        "bridge_jax/interop/torch_model/processing_bridge.py",
    ],
    "markupsafe": ["bridge_jax/report/*.py"],
    "umap": ["bridge_jax/report/embedding.py"],
    "array_record": ["bridge_jax/data/tar_shards.py"],
    "pyarrow": ["bridge_jax/data/datasets/tables.py", "bridge_jax/data/tar_index.py", "bridge_jax/report/points.py"],
    "pillow_heif": ["bridge_jax/data/image.py"],
    "py3langid": ["bridge_jax/data/languages.py"],
    "ray": ["bridge_jax/data/cluster.py"],
    "eccv_caption": ["bridge_jax/evals/scores/eccv_caption.py"],
    "usearch": ["bridge_jax/index/approximate.py"],
    "starlette": ["bridge_jax/index/serve.py"],
    "uvicorn": ["tools/search.py"],
    "rich": ["bridge_jax/run/terminal.py", "bridge_jax/plan/dry_run.py", "tools/*.py"],
    "psutil": ["bridge_jax/step/train_step.py"],
    "scipy": ["tools/ablation/verdict.py"],
    "statsmodels": ["tools/ablation/verdict.py"],
}

NOT_IMPORTED = {
    "flatbuffers": "jax.export writes its programs with it",
    "importlib_resources": "tensorflow-datasets reads without TensorFlow only when it is present",
}
NOT_DECLARED = {
    "numpy": "jax requires it",
    "ml_dtypes": "jax requires it",
    "trackio": "it forbids the Pillow that we need; the extra of its name brings the rest (docs/runs.md)",
}
MODULE_OF = {
    "absl-py": "absl",
    "eccv-caption": "eccv_caption",
    "mlflow-skinny": "mlflow",
    "orbax-checkpoint": "orbax",
    "pillow-heif": "pillow_heif",
    "pillow": "PIL",
    "sentence-transformers": "sentence_transformers",
    "tensorflow-datasets": "tensorflow_datasets",
    "umap-learn": "umap",
}
EXTRAS = {  # file -> the extra of pyproject.toml that it needs
    "bridge_jax/data/cluster.py": "ray",
    "bridge_jax/data/image.py": "heic",
    "bridge_jax/data/languages.py": "language",
    "bridge_jax/evals/scores/eccv_caption.py": "eccv",
    "bridge_jax/index/approximate.py": "approximate",
    "bridge_jax/index/serve.py": "serve",
    "bridge_jax/interop/torch_onnx.py": "onnx",
    "bridge_jax/report/embedding.py": "report",
    "bridge_jax/workdir/trackers/mlflow.py": "mlflow",
    "bridge_jax/workdir/trackers/wandb.py": "wandb",
    "tools/ablation/verdict.py": "ablate",
    "tools/bench_data.py": "rivals",
    "tools/rivals.py": "rivals",
    "tools/export_onnx.py": "onnx",
    "tools/search.py": "serve",
}
FILE_LINES, FUNCTION_LINES = 300, 60
LONGER = {  # file or file::function -> the reason why it is longer
    "configs/common.py::base": "a table: one setting a line",
}
READING = ("types", "models/bridge", "models/interaction", "step/forward", "losses/itc", "step/objective",
           "step/train_step", "run/train")  # the whole idea, in the order of docs/architecture.md  # fmt: skip
READING_LINES, READING_PARAMETERS = 1250, 5
SHIPPED = (
    "bridge_jax/interop/torch_model/"  # copied into every export: must stand alone, and import each other as `.name`
)
SHIPPED_IMPORTS = {"numpy", "PIL", "torch", "transformers"}
BAD_NAMES = {"util", "utils", "helper", "helpers", "misc", "legacy"}
