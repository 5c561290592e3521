"""The annotated types are the types that functions receive: pyright finds no error."""

import subprocess
import sys
from pathlib import Path


def test_pyright_finds_nothing():
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-m", "pyright"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
