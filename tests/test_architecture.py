"""The house, enforced: who may import whom, which file owns which dependency, and how long a text may get.

To add a file, place it in `GROUPS` if no line of it fits. To break a rule, change it here and say why in the commit.
"""

import ast
import fnmatch
import graphlib
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Group -> floor and files. A file imports from lower floors and from its own group, never from a sibling group.
GROUPS = {
    "foundation": (0, ["bridge_jax/__init__.py", "bridge_jax/types.py", "bridge_jax/config.py",
                       "bridge_jax/config_convert.py", "bridge_jax/config_keys.py", "bridge_jax/rules.py",
                       "bridge_jax/rng.py",
                       "bridge_jax/losses/__init__.py", "bridge_jax/evals/__init__.py",
                       "bridge_jax/config_json.py", "bridge_jax/workdir/atomic.py", "bridge_jax/workdir/manifest.py",
                       "bridge_jax/workdir/outcome.py", "bridge_jax/stop.py",
                       "bridge_jax/workdir/lock.py"]),
    "configs": (0, ["configs/*.py"]),
    "models": (1, ["bridge_jax/models/*.py"]),
    "losses": (2, ["bridge_jax/losses/*.py"]),
    "data": (1, ["bridge_jax/data/*.py", "bridge_jax/data/datasets/*.py"]),
    "scores": (1, ["bridge_jax/evals/scores/*.py"]),
    "names": (1, ["bridge_jax/interop/__init__.py", "bridge_jax/interop/names.py",
                  "bridge_jax/interop/names_authors.py", "bridge_jax/interop/names_towers.py"]),
    "mining": (1, ["bridge_jax/mining.py"]),
    "forward": (2, ["bridge_jax/forward.py", "bridge_jax/decode.py"]),
    "optim": (2, ["bridge_jax/optim.py"]),
    "sharding": (2, ["bridge_jax/sharding.py"]),
    "checkpoint": (2, ["bridge_jax/workdir/checkpoint.py"]),
    "checkpoint_meta": (1, ["bridge_jax/workdir/meta.py", "bridge_jax/migrations.py"]),
    "run_log": (2, ["bridge_jax/workdir/log.py"]),
    "broken_log": (2, ["bridge_jax/workdir/broken_log.py"]),
    "step": (3, ["bridge_jax/objective.py", "bridge_jax/step.py"]),
    "lower_cache": (3, ["bridge_jax/lower_cache.py"]),
    "bad_step": (4, ["bridge_jax/bad_step.py"]),
    "evals": (4, ["bridge_jax/evals/*.py"]),
    "analysis": (4, ["bridge_jax/analysis/*.py"]),
    "planner": (4, ["bridge_jax/planner.py", "bridge_jax/hlo.py", "bridge_jax/flops.py", "bridge_jax/chips.py"]),
    "interop": (4, ["bridge_jax/interop/*.py"]),
    "torch_model": (0, ["bridge_jax/interop/torch_model/*.py"]),
    "loop": (5, ["bridge_jax/train.py", "bridge_jax/origin.py", "bridge_jax/main.py", "bridge_jax/distributed.py",
                 "bridge_jax/command_line.py", "bridge_jax/dry_run.py", "bridge_jax/terminal.py", "tools/*.py"]),
}  # fmt: skip

# Dependency -> the only files that may import it. What is not named here may be imported anywhere.
HOMES = {
    "tensorflow": [],
    "torch": ["bridge_jax/interop/torch_model/*.py", "bridge_jax/interop/torch_onnx.py"],
    "onnxscript": ["tools/export_onnx.py"],
    "transformers": ["bridge_jax/interop/torch_model/*.py", "bridge_jax/interop/torch_onnx.py"],
    "pickle": [],
    "cloudpickle": [],
    "dill": [],
    "joblib": [],
    "marshal": [],
    "shelve": [],
    "grain": ["bridge_jax/data/pipeline.py"],
    "orbax": ["bridge_jax/workdir/checkpoint.py"],
    "tensorboardX": ["bridge_jax/workdir/log.py"],
    "safetensors": ["bridge_jax/interop/hf_import.py", "bridge_jax/interop/torch_export.py"],
    "huggingface_hub": ["bridge_jax/interop/hf_import.py"],
    "tokenizers": ["bridge_jax/data/text.py", "bridge_jax/data/datasets/shapes.py", "tools/*.py"],
    "tensorflow_datasets": ["bridge_jax/data/*.py", "bridge_jax/data/datasets/*.py", "tools/*.py"],
    "PIL": [
        "bridge_jax/data/image.py",
        "bridge_jax/data/shapes.py",
        "bridge_jax/interop/torch_model/processing_bridge.py",
    ],
    "rich": ["bridge_jax/terminal.py", "bridge_jax/dry_run.py", "tools/*.py"],
    "clu": ["bridge_jax/dry_run.py", "tools/*.py"],
}

NOT_IMPORTED = {
    "array_record": "tensorflow-datasets opens the prepared files with it",
    "flatbuffers": "jax.export writes its programs with it",
    "importlib_resources": "tensorflow-datasets reads without TensorFlow only when it is present",
}
NOT_DECLARED = {
    "numpy": "jax requires it",
    "ml_dtypes": "jax requires it",
}
MODULE_OF = {
    "absl-py": "absl",
    "orbax-checkpoint": "orbax",
    "pillow": "PIL",
    "tensorflow-datasets": "tensorflow_datasets",
}
EXTRAS = {  # file -> the extra of pyproject.toml that it needs
    "bridge_jax/interop/torch_onnx.py": "onnx",
    "tools/export_onnx.py": "onnx",
}
FILE_LINES, FUNCTION_LINES = 300, 60
LONGER = {  # file or file::function -> the reason why it is longer
    "configs/common.py::base": "a table: one setting a line",
}
SHIPPED = (
    "bridge_jax/interop/torch_model/"  # copied into every export: must stand alone, and import each other as `.name`
)
SHIPPED_IMPORTS = {"numpy", "PIL", "torch", "transformers"}
BAD_NAMES = {"util", "utils", "helper", "helpers", "misc", "legacy"}


def files(*folders):
    return sorted(p.relative_to(ROOT).as_posix() for folder in folders for p in (ROOT / folder).rglob("*.py"))


PACKAGE = files("bridge_jax", "configs", "tools")
SOURCES = {path: (ROOT / path).read_text(encoding="utf-8") for path in [*PACKAGE, *files("tests")]}


def group_of(path):
    """Return the group whose pattern fits; `*` stays inside a folder, and a file named outright wins."""

    def fits(pattern):
        return path.rpartition("/")[0] == pattern.rpartition("/")[0] and fnmatch.fnmatchcase(path, pattern)

    found = [
        (("*" in pattern), name) for name, (_, patterns) in GROUPS.items() for pattern in patterns if fits(pattern)
    ]
    return min(found)[1] if found else None


def imports(source):
    """Yield the modules that the source imports, anywhere in it, and their lines; `from a import b` gives a and a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "." * node.level + (node.module or ""), node.lineno
        elif isinstance(node, ast.ImportFrom):
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def ours(module, known):
    """Return the file of one of our modules, None for a package's folder, a name inside a module or other people's."""
    path = module.replace(".", "/")
    return next((p for p in (f"{path}.py", f"{path}/__init__.py") if p in known), None)


def floor_violations(path, source, known):
    """Return a line for every import that goes up or sideways."""
    group, found = group_of(path), []
    if group is None:
        return [f"{path}: no group in GROUPS of tests/test_architecture.py fits; place the file"]
    for module, line in imports(source):
        target = ours(module, known)
        if target is None:
            continue
        other = group_of(target)
        if other != group and (other is None or GROUPS[other][0] >= GROUPS[group][0]):
            found.append(f"{path}:{line}: {group} (floor {GROUPS[group][0]}) imports {target} of {other}")
    return found


def home_violations(path, source):
    """Return a line for every import of a dependency outside its home."""
    found = []
    for module, line in imports(source):
        for dependency, homes in HOMES.items():
            inside = module == dependency or module.startswith(dependency + ".")
            if inside and not any(fnmatch.fnmatchcase(path, home) for home in homes):
                found.append(f"{path}:{line}: {dependency} is for {' and '.join(homes) or 'nobody'}")
    return list(dict.fromkeys(found))


def shipping_violations(path, source):
    """Return a line for every relative import of our own files, and for what a shipped file may not import."""
    found = []
    for module, line in imports(source):
        top = module.split(".")[0]
        if not path.startswith(SHIPPED):
            if not top:
                found.append(f"{path}:{line}: a relative import; write the whole name")
        elif top and top not in SHIPPED_IMPORTS | sys.stdlib_module_names:
            found.append(f"{path}:{line}: {module} will not be there where the exported folder is loaded")
    return found


def idiom_violations(path, source):
    """Return a line for every `.get` or defaulted `getattr` on a config, and for unpickling through NumPy."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        read = None  # what the call reads from
        if isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            read = node.func.value
        elif isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) == 3:
            read = node.args[0]
        if read is not None and re.search(r"\b(cfg|config)(\b|_)|_(cfg|config)\b", ast.unparse(read)):
            found.append(f"{path}:{node.lineno}: {ast.unparse(node)} hides a missing key; index the config")
        if ast.unparse(node.func) == "np.load" and not any(word.arg == "allow_pickle" for word in node.keywords):
            found.append(f"{path}:{node.lineno}: {ast.unparse(node)}: say allow_pickle=False")
        if any(word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in node.keywords):
            found.append(f"{path}:{node.lineno}: {ast.unparse(node)} runs what a file says")
    return found


def length_violations(path, source):
    """Return a line for the file and for every function that is too long."""
    found = []
    if (lines := len(source.splitlines())) > FILE_LINES and path not in LONGER:
        found.append(f"{path}: {lines} lines, at most {FILE_LINES}")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and f"{path}::{node.name}" not in LONGER:
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                found.append(f"{path}:{node.lineno}: {node.name} has {lines} lines, at most {FUNCTION_LINES}")
    return found


def report(violations):
    assert not violations, "\n" + "\n".join(violations)


def test_imports_go_down():
    report([line for path in PACKAGE for line in floor_violations(path, SOURCES[path], SOURCES)])


def test_files_of_a_group_do_not_import_in_circles():
    graph = {path: {ours(module, PACKAGE) for module, _ in imports(SOURCES[path])} - {None, path} for path in PACKAGE}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError naming the circle


def test_dependencies_stay_at_home():
    report([line for path in PACKAGE for line in home_violations(path, SOURCES[path])])


def test_shipped_files_stand_alone():
    report([line for path in PACKAGE for line in shipping_violations(path, SOURCES[path])])


def test_idioms():
    report([line for path in PACKAGE for line in idiom_violations(path, SOURCES[path])])


def test_lengths():
    report([line for path, source in SOURCES.items() for line in length_violations(path, source)])


def test_no_loose_ends():
    """Nothing left to do, no silenced type checker, no test marked to be skipped or to fail."""
    loose = re.compile("TO" r"DO\b|FIX" r"ME\b|type: " "ignore|mark" r"\.(skip|xfail)")
    lines = [(path, n, line) for path, source in SOURCES.items() for n, line in enumerate(source.splitlines(), 1)]
    report([f"{path}:{n}: {line.strip()}" for path, n, line in lines if loose.search(line)])


def test_names_say_something():
    report([path for path in SOURCES if BAD_NAMES & set(re.split(r"[/_.]", path))])


def test_every_folder_is_a_package():
    folders = {Path(path).parent.as_posix() for path in PACKAGE}
    report([f"{folder}/__init__.py is missing: it would not be installed" for folder in sorted(folders)
            if not (ROOT / folder / "__init__.py").exists()])  # fmt: skip


def test_every_dependency_is_imported_and_every_import_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[<>=\[; ]", line)[0] for line in project["dependencies"]}
    declared = {MODULE_OF.get(name, name) for name in declared}
    runtime = [path for path in PACKAGE if group_of(path) != "torch_model"]
    imported = set()
    for path in runtime:
        extra = set(project["optional-dependencies"][EXTRAS[path]]) if path in EXTRAS else set()
        imported |= {module.split(".")[0] for module, _ in imports(SOURCES[path])} - extra
    imported -= sys.stdlib_module_names | {"bridge_jax", "configs", "tools"}
    idle, missing = declared - imported - NOT_IMPORTED.keys(), imported - declared - NOT_DECLARED.keys()
    assert not idle, f"declared in pyproject.toml, imported nowhere: {sorted(idle)}"
    assert not missing, f"imported, not declared in pyproject.toml: {sorted(missing)}"
    stale = (NOT_IMPORTED.keys() & imported) | (NOT_DECLARED.keys() & declared)
    assert not stale, f"excused here without need: {sorted(stale)}"
