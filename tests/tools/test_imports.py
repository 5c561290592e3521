"""What Python does while it imports a tool."""

import os
import subprocess
import sys
from pathlib import Path

WATCH = """
import atexit, gc, sys
class Watch:
    def find_spec(self, name, *_):
        if name == "jax":
            print("importing jax", gc.isenabled())
sys.meta_path.insert(0, Watch())
atexit.register(lambda: print("at the end", gc.isenabled()))
"""


def test_garbage_is_collected_once_a_tool_runs(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    command = [sys.executable, "-m", "tools.show_params"]
    root, env = Path(__file__).resolve().parents[2], os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("error: --config is missing")
    assert done.stdout == "importing jax False\nat the end True\n"
