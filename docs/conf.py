"""Build the site: python -m sphinx -W --keep-going -n docs docs/_build"""

import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [
    str(DOCS.parent),
    str(DOCS),
]  # tests/architecture.py; github.py and reference.py

project = "bridge_jax"
version = release = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
copyright = "the bridge_jax authors, Apache License 2.0"
extensions = ["myst_parser", "sphinx.ext.mathjax", "sphinx_copybutton", "github", "reference"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4  # a page's headings are link targets, as on GitHub

smartquotes = False  # `...` is three dots, and a quote can be copied
add_module_names = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 90  # a longer one has a line for each parameter
toc_object_entries = False  # a tree of a thousand functions doubles the time of a build

html_theme = "furo"
html_title = f"bridge_jax {release}"
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"  # of a session in Python only what was typed
