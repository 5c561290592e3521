"""The architecture, enforced: who may import whom, which files own a dependency, and how long a file may be.

The tables are in `tests/architecture.py`.
"""

import ast
import fnmatch
import graphlib
import re
import sys
import tomllib
from pathlib import Path

from tests.architecture import (
    BAD_NAMES,
    EXTRAS,
    FILE_LINES,
    FUNCTION_LINES,
    HOMES,
    LONGER,
    MODULE_OF,
    NOT_DECLARED,
    NOT_IMPORTED,
    READING,
    READING_LINES,
    READING_PARAMETERS,
    ROOMS,
    SHIPPED,
    SHIPPED_IMPORTS,
)

ROOT = Path(__file__).resolve().parents[1]


def files(*folders):
    return sorted(p.relative_to(ROOT).as_posix() for folder in folders for p in (ROOT / folder).rglob("*.py"))


PACKAGE = files("bridge_jax", "configs", "tools")
SOURCES = {path: (ROOT / path).read_text(encoding="utf-8") for path in [*PACKAGE, *files("tests")]}


def room_of(path):
    """Return the room whose pattern fits. `*` stays inside a folder, and a pattern without `*` wins."""

    def fits(pattern):
        return path.rpartition("/")[0] == pattern.rpartition("/")[0] and fnmatch.fnmatchcase(path, pattern)

    fitting = [(("*" in pattern), name) for name, room in ROOMS.items() for pattern in room.patterns if fits(pattern)]
    return min(fitting)[1] if fitting else None


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
    """Return the file of a module of ours; None for a name inside a module and for modules of others."""
    path = module.replace(".", "/")
    return next((p for p in (f"{path}.py", f"{path}/__init__.py") if p in known), None)


def floor_violations(path, source, known):
    """Return a line for every import that goes up or sideways."""
    room, violations = room_of(path), []
    if room is None:
        return [f"{path}: no room in ROOMS of tests/architecture.py fits; place the file"]
    for module, line in imports(source):
        target = ours(module, known)
        if target is None:
            continue
        other = room_of(target)
        if other != room and (other is None or ROOMS[other].floor >= ROOMS[room].floor):
            violations.append(f"{path}:{line}: {room} (floor {ROOMS[room].floor}) imports {target} of {other}")
    return violations


def dead_rules(sources):
    """Return a line for every rule of this file that none of the sources needs."""
    dead = [
        f"ROOMS[{name!r}]: {pattern} matches no file"
        for name, room in ROOMS.items()
        for pattern in room.patterns
        if not any(room_of(path) == name and fnmatch.fnmatchcase(path, pattern) for path in sources)
    ]
    tops = {path: {module.split(".")[0] for module, _ in imports(source)} for path, source in sources.items()}
    dead += [
        f"HOMES[{dependency!r}]: no file of {home} imports it"
        for dependency, homes in HOMES.items()
        for home in homes
        if not any(fnmatch.fnmatchcase(path, home) and dependency in tops[path] for path in sources)
    ]
    for place in LONGER:
        path, _, _ = place.partition("::")
        if path not in sources or not length_violations(path, sources[path], exceptions={}):
            dead.append(f"LONGER[{place!r}]: nothing there is longer than others may be")
    return dead + [f"EXTRAS[{path!r}]: there is no such file" for path in EXTRAS if path not in sources]


def home_violations(path, source):
    """Return a line for every import of a dependency outside its home."""
    violations = []
    for module, line in imports(source):
        for dependency, homes in HOMES.items():
            inside = module == dependency or module.startswith(dependency + ".")
            if inside and not any(fnmatch.fnmatchcase(path, home) for home in homes):
                violations.append(f"{path}:{line}: {dependency} is for {' and '.join(homes) or 'nobody'}")
    return list(dict.fromkeys(violations))


def shipping_violations(path, source):
    """Return a line for every relative import of our own files, and for what a shipped file may not import."""
    violations = []
    for module, line in imports(source):
        top = module.split(".")[0]
        if not path.startswith(SHIPPED):
            if not top:
                violations.append(f"{path}:{line}: a relative import; write the whole name")
        elif top and top not in SHIPPED_IMPORTS | sys.stdlib_module_names:
            violations.append(f"{path}:{line}: {module} will not be there where the exported folder is loaded")
    return violations


def idiom_violations(path, source):
    """Return a line for every `.get` or defaulted `getattr` on a config, and for unpickling through NumPy."""
    violations = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        read = None  # what the call reads from
        if isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            read = node.func.value
        elif isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) == 3:
            read = node.args[0]
        if read is not None and re.search(r"\b(cfg|config)(\b|_)|_(cfg|config)\b", ast.unparse(read)):
            violations.append(f"{path}:{node.lineno}: {ast.unparse(node)} hides a missing key; index the config")
        if ast.unparse(node.func) == "np.load" and not any(word.arg == "allow_pickle" for word in node.keywords):
            violations.append(f"{path}:{node.lineno}: {ast.unparse(node)}: say allow_pickle=False")
        if any(word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in node.keywords):
            violations.append(f"{path}:{node.lineno}: {ast.unparse(node)} runs what a file says")
    return violations


def length_violations(path, source, exceptions=LONGER):
    """Return a line for the file and for every function that is too long."""
    violations = []
    if (lines := len(source.splitlines())) > FILE_LINES and path not in exceptions:
        violations.append(f"{path}: {lines} lines, at most {FILE_LINES}")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and f"{path}::{node.name}" not in exceptions:
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                violations.append(f"{path}:{node.lineno}: {node.name} has {lines} lines, at most {FUNCTION_LINES}")
    return violations


def report(violations):
    assert not violations, "\n" + "\n".join(violations)


def test_imports_go_down():
    report([line for path in PACKAGE for line in floor_violations(path, SOURCES[path], SOURCES)])


def test_every_rule_of_this_file_is_needed():
    report(dead_rules({path: SOURCES[path] for path in PACKAGE}))


def test_the_root_of_the_package_stays_small():
    """At most six files beside `__init__`, and each room's meaning fits on a line: newcomers read the tree."""
    root = [path for path in PACKAGE if re.fullmatch(r"bridge_jax/(?!__init__)\w+\.py", path)]
    assert len(root) <= 6, root
    report([f"ROOMS[{name!r}]: {room.meaning!r}" for name, room in ROOMS.items() if not 0 < len(room.meaning) <= 60])


def test_files_of_a_room_do_not_import_in_circles():
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


def test_the_reading_list_is_short():
    """A newcomer reads it in an evening, and no function of it takes more than five parameters."""
    files = [f"bridge_jax/{name}.py" for name in READING]
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert re.findall(r"^\d\. `(bridge_jax/[a-z_/]+\.py)`", page, re.M) == files
    assert sum(len(SOURCES[file].splitlines()) for file in files) <= READING_LINES
    functions = [(file, node) for file in files for node in ast.walk(ast.parse(SOURCES[file]))]
    for file, node in functions:
        if isinstance(node, ast.FunctionDef):
            every = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            names = [each.arg for each in every if each.arg not in ("self", "cls")]
            assert len(names) <= READING_PARAMETERS, f"{file}: {node.name} takes {names}"


def test_no_loose_ends():
    """No open tasks, no silenced type checks, no tests marked to be skipped or to fail."""
    loose = re.compile("TO" r"DO\b|FIX" r"ME\b|type: " "ignore|mark" r"\.(skip|xfail)")
    lines = [(path, n, line) for path, source in SOURCES.items() for n, line in enumerate(source.splitlines(), 1)]
    report([f"{path}:{n}: {line.strip()}" for path, n, line in lines if loose.search(line)])


def test_names_say_something():
    report([path for path in SOURCES if BAD_NAMES & set(re.split(r"[/_.]", path))])


def test_no_two_test_files_share_a_name():
    """Folders of tests are no packages, so pytest would import one file for both."""
    places = {}
    for path in files("tests"):
        places.setdefault(Path(path).name, []).append(path)
    report([" and ".join(found) for name, found in places.items() if name.startswith("test_") and len(found) > 1])


def test_every_folder_is_a_package():
    folders = {Path(path).parent.as_posix() for path in PACKAGE}
    report([f"{folder}/__init__.py is missing: it would not be installed" for folder in sorted(folders)
            if not (ROOT / folder / "__init__.py").exists()])  # fmt: skip


def test_every_dependency_is_imported_and_every_import_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[<>=\[; ]", line)[0] for line in project["dependencies"]}
    declared = {MODULE_OF.get(name, name) for name in declared}
    runtime = [path for path in PACKAGE if room_of(path) != "torch_model"]
    imported = set()
    for path in runtime:
        extra = project["optional-dependencies"][EXTRAS[path]] if path in EXTRAS else []
        own = {MODULE_OF.get(name, name) for name in extra}
        imported |= {module.split(".")[0] for module, _ in imports(SOURCES[path])} - own
    imported -= sys.stdlib_module_names | {"bridge_jax", "configs", "tools"}
    idle, missing = declared - imported - NOT_IMPORTED.keys(), imported - declared - NOT_DECLARED.keys()
    assert not idle, f"declared in pyproject.toml, imported nowhere: {sorted(idle)}"
    assert not missing, f"imported, not declared in pyproject.toml: {sorted(missing)}"
    stale = (NOT_IMPORTED.keys() & imported) | (NOT_DECLARED.keys() & declared)
    assert not stale, f"excused here without need: {sorted(stale)}"
