"""The pages of the modules, made from their source: a directive for MyST, and Markdown for it.

    ```{rooms} evals scores
    ```

lists the modules of these rooms of tests/architecture.py with their public functions, classes, methods and fields. The
source is parsed and never imported: a page needs no JAX, a signature is the one that is written there, shapes included,
and the comment beside a field is its description. Docstrings are Markdown but for three things: an indented paragraph
or one in columns is shown as it is written, so is a session in Python, and all but `code` and *emphasis* is plain text.
"""

import ast
import re
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from tests.architecture import ROOMS
from tests.test_architecture import PACKAGE, ROOT, room_of

CITATION = re.compile(r"(docs/method\.md)((?:,?\s+(?:and\s+|to\s+)?\d+(?:\.\d+)?)+)")
LITERAL = re.compile(r"(``?[^`]+``?|https?://[^\s)]+[^\s).,;]|(?<![\w*])\*(?=[^\s*])[\w -]{0,30}\w\*(?![\w*]))")
SHORT = 60  # characters of a constant's value that are shown


class Rooms(SphinxDirective):
    """Show the modules of the rooms that are named, in the order of their names."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        rooms = self.arguments[0].split()
        if unknown := [name for name in rooms if name not in ROOMS]:
            raise self.error(f"expected rooms of tests/architecture.py, got {', '.join(unknown)}")
        shown = nodes.Element()
        for path in modules(rooms):
            self.env.note_dependency(str(ROOT / path))
            lines = page(path).splitlines()
            self.state.nested_parse(StringList(lines, path), 0, shown, match_titles=True)
        return shown.children


def modules(rooms: Iterable[str]) -> list[str]:
    """Return the files of the rooms, without the `__init__.py` that are empty."""
    paths = [path for name in rooms for path in PACKAGE if room_of(path) == name]
    return [path for path in paths if (ROOT / path).read_text(encoding="utf-8").strip()]


def dotted(path: str) -> str:
    """Return the name under which a file is imported."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def public(name: str) -> bool:
    return not name.startswith("_")


@cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


@cache
def names(path: str) -> dict[str, str]:
    """Return the full name of each name that a module imports or defines."""
    full = {}
    for node in tree(path).body:
        if isinstance(node, ast.Import):
            full |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            package = dotted(path).rsplit(".", node.level)[0] + "." if node.level else ""
            module = package + (node.module or "")
            full |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            full[node.name] = f"{dotted(path)}.{node.name}"
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            full |= {name: f"{dotted(path)}.{name}" for name in targets(node)}
    return full


def targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    """Return the plain names that a statement assigns."""
    every = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target.id for target in every if isinstance(target, ast.Name)]


def home(name: str) -> str:
    """Return the full name where a thing is defined, followed through the packages that pass it on."""
    module, _, attribute = name.rpartition(".")
    face = f"{module.replace('.', '/')}/__init__.py"
    if face in PACKAGE and (passed := names(face).get(attribute, name)) != name:
        return home(passed)
    return name


class Written(ast.NodeTransformer):
    """Write our names of annotations in full, so that they can be links; other people's stay as they are written."""

    def __init__(self, path: str):
        self.known = names(path)

    def visit_Name(self, node: ast.Name | ast.Attribute) -> ast.AST:
        first, dot, rest = ast.unparse(node).partition(".")
        full = home(self.known.get(first, first) + dot + rest)
        return ast.Name(id=full) if full.startswith("bridge_jax.") else node

    visit_Attribute = visit_Name


def written(path: str, annotation: ast.expr) -> str:
    """Return an annotation with full names; one in quotes is read as the others are."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    return ast.unparse(Written(path).visit(ast.parse(ast.unparse(annotation), mode="eval")))


def signature(path: str, function: ast.FunctionDef, method: bool = False) -> str:
    """Return the parameters and the result of a function, of a method without the first parameter."""
    copy = ast.parse(ast.unparse(function)).body[0]
    assert isinstance(copy, ast.FunctionDef)
    arguments = copy.args
    if method and not any(ast.unparse(decorator) == "staticmethod" for decorator in function.decorator_list):
        (arguments.posonlyargs or arguments.args).pop(0)
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    for argument in every:
        if argument is not None and argument.annotation is not None:
            argument.annotation = ast.Name(id=written(path, argument.annotation))
    result = f" -> {written(path, copy.returns)}" if copy.returns else ""
    return f"({ast.unparse(arguments)}){result}"


@cache
def comments(path: str) -> dict[int, str]:
    """Return the comments that share their line with code, by line."""
    with (ROOT / path).open("rb") as file:
        tokens = [token for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT]
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.line.lstrip()[0] != "#"}


def prose(text: str) -> str:
    """Return words as Markdown in which only `code`, *emphasis*, addresses and citations of the method mean more."""
    pieces = LITERAL.split(text)
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            piece = re.sub(r"([\\*_\[\]<>$#|~{}])", r"\\\1", piece)
            piece = re.sub(r"^([=+>-])(?! )", r"\\\1", piece, flags=re.MULTILINE)
            pieces[i] = re.sub(r"docs/method\\\.md", "docs/method.md", piece)
        elif piece.startswith("http"):
            pieces[i] = f"<{piece}>"
    return CITATION.sub(cited, "".join(pieces))


def cited(match: re.Match[str]) -> str:
    """Return a citation whose numbers are links to the sections."""
    return match[1] + re.sub(r"\d+(?:\.\d+)?", lambda number: section(number[0]), match[2])


@cache
def section(number: str) -> str:
    """Return a link to a section of the method."""
    text = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    title = re.search(rf"^##+ ({re.escape(number)}\.? .*)$", text, re.MULTILINE)
    if title is None:
        return number
    anchor = re.sub(r"[^\w\- ]", "", title[1].lower()).replace(" ", "-")
    return f"[{number}](/method.md#{anchor})"


def markdown(docstring: str) -> str:
    """Return a docstring as Markdown."""
    shown = []
    for paragraph in re.split(r"\n\s*\n(?=\S)", docstring.strip()):
        indented = re.search(r"^ +\S", paragraph, re.MULTILINE)
        if paragraph.startswith(">>>"):
            shown.append(f"```pycon\n{paragraph}\n```")
        elif re.search(r"\S {2,}\S", paragraph) or (indented and not re.match(r"- |\d+\. ", paragraph)):
            shown += blocks(paragraph)
        else:
            shown.append(prose(paragraph))
    return "\n\n".join(shown)


def blocks(paragraph: str) -> Iterator[str]:
    """Yield a paragraph as it is written; words before or after an indented part stay prose."""
    lines = paragraph.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith(" ")), 0)
    if any(re.search(r"\S {2,}\S", line) for line in lines[:first]) or (first and lines[first - 1].strip()):
        first = 0
    if first:
        yield prose("\n".join(lines[:first]).strip())
    text = "\n".join(lines[first:])
    indent = min(len(line) - len(line.lstrip()) for line in text.splitlines() if line.strip())
    text = "\n".join(line[indent:] for line in text.splitlines())
    yield f"```text\n{text.strip(chr(10))}\n```"


def entry(kind: str, name: str, text: str, options: Iterable[str] = (), inside: str = "") -> str:
    """Return a directive of Sphinx's Python domain; its fence is longer than those inside it."""
    body = "\n\n".join(part for part in (text, inside) if part)
    fence = "`" * (max([2, *map(len, re.findall(r"^`{3,}", body, re.MULTILINE))]) + 1)
    return "\n".join([f"{fence}{{py:{kind}}} {name}", *options, "", body, fence])


def constant(path: str, node: ast.Assign | ast.AnnAssign, kind: str) -> str:
    """Return the entry of a field of a class or of a module's constant, with the comment beside it."""
    options = []
    if isinstance(node, ast.AnnAssign):
        options.append(f":type: {written(path, node.annotation)}")
    if node.value is not None and len(value := ast.unparse(node.value)) <= SHORT:
        options.append(f":value: {value}")
    text = prose(comments(path).get(node.end_lineno or node.lineno, ""))
    return "\n\n".join(entry(kind, name, text, options) for name in targets(node) if public(name))


def is_entry(node: ast.FunctionDef) -> bool:
    """Return whether a method has an entry: not Flax's `setup`, nor one that sets a property which another reads."""
    sets = any(ast.unparse(decorator).endswith(".setter") for decorator in node.decorator_list)
    return (public(node.name) or node.name == "__call__") and node.name != "setup" and not sets


def function(path: str, node: ast.FunctionDef, method: bool = False) -> str:
    """Return the entry of a function, a method or a property."""
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    text = markdown(ast.get_docstring(node) or "")
    if method and decorators & {"property", "cached_property", "functools.cached_property"}:
        options = [f":type: {written(path, node.returns)}"] if node.returns else []
        return entry("property", node.name, text, options)
    options = [f":{name}:" for name in ("classmethod", "staticmethod") if name in decorators]
    return entry("method" if method else "function", node.name + signature(path, node, method), text, options)


def class_(path: str, node: ast.ClassDef) -> str:
    """Return the entry of a class: its docstring, fields and public methods, and how a module is called."""
    inside, parameters = [], ""
    for part in node.body:
        if isinstance(part, ast.AnnAssign):
            inside.append(constant(path, part, "attribute"))
        elif isinstance(part, ast.FunctionDef) and part.name == "__init__":
            parameters = signature(path, part, method=True).removesuffix(" -> None")
        elif isinstance(part, ast.FunctionDef) and is_entry(part):
            inside.append(function(path, part, method=True))
    bases = ", ".join(f"`{ast.unparse(base)}`" for base in node.bases)
    text = "\n\n".join(filter(None, [bases and f"Bases: {bases}", markdown(ast.get_docstring(node) or "")]))
    return entry("class", node.name + parameters, text, inside="\n\n".join(filter(None, inside)))


def page(path: str) -> str:
    """Return the section of one module."""
    module = tree(path)
    parts = [f"## {dotted(path)}", entry("module", dotted(path), ""), markdown(ast.get_docstring(module) or "")]
    for node in module.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            parts.append(constant(path, node, "data"))
        elif isinstance(node, ast.FunctionDef) and public(node.name):
            parts.append(function(path, node))
        elif isinstance(node, ast.ClassDef) and public(node.name):
            parts.append(class_(path, node))
    return "\n\n".join(filter(None, parts)) + "\n"


def unlink(app: Sphinx, document: nodes.document) -> None:
    """Make words of the names in signatures that no page can have: other people's and private ones."""
    for link in list(document.findall(addnodes.pending_xref)):
        path = link["reftarget"].split(".")
        if link["refdomain"] == "py" and (path[0] != "bridge_jax" or not all(map(public, path))):
            link.replace_self(nodes.Text(path[-1] if path[0] == "bridge_jax" else link["reftarget"]))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("rooms", Rooms)
    app.connect("doctree-read", unlink)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
