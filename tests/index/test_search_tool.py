"""tools/search.py, a process each, as users do: a build that is killed, built on, and asked."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from bridge_jax.index import store
from tests.index.albums import PHOTOS

ROOT = Path(__file__).resolve().parents[2]


def command(*words):
    return [sys.executable, "-m", "tools.search", *map(str, words)]


def run(*words):
    return subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_a_killed_build_goes_on_and_answers(search_run, photos, tmp_path, built):
    index = tmp_path / "index"
    words = ("build", photos, f"--workdir={search_run}", f"--index={index}", "--approximate")
    with subprocess.Popen(command(*words), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as started:
        while not (index / store.MANIFEST).exists() and started.poll() is None:
            time.sleep(0.01)
        os.kill(started.pid, signal.SIGKILL)
    killed = run("query", "a red circle", f"--index={index}")
    assert killed.returncode == 2
    assert "the build did not end" in killed.stderr
    done = run(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{PHOTOS} photos ({PHOTOS} new), 0 skipped" in done.stdout
    assert 'this checkpoint cannot say "no photo matches"' in done.stdout  # it was never trained
    assert "finds 100.0 % of the 10 nearest photos of 16 captions of shapes/val" in done.stdout
    for name in (store.EMBEDDINGS, store.STATES, store.CONTENTS):
        assert (index / name).read_bytes() == (built / name).read_bytes()
    answer = run("query", "a red circle", "circle + red", f"--index={index}", "--json", "--show=3", "--approximate")
    assert (answer.returncode, answer.stderr) == (0, "")
    first, second = map(json.loads, answer.stdout.splitlines())
    assert (len(first["hits"]), len(second["hits"])) == (3, 3)
    assert first["hits"][0]["logit"] is not None
    assert second["hits"][0]["logit"] is None


def test_the_page_is_served_until_it_is_interrupted(built):
    with subprocess.Popen(command("serve", f"--index={built}", "--port=0"), cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as served:  # fmt: skip
        address = re.search(r"http://\S+/", served.stdout.readline())[0]
        with urllib.request.urlopen(f"{address}about", timeout=60) as answer:
            assert json.load(answer)["photos"] == PHOTOS
        second = run("serve", f"--index={built}", f"--port={address.rstrip('/').rpartition(':')[2]}")
        assert (second.returncode, second.stderr.count("\n")) == (2, 1)
        assert "Address already in use" in second.stderr
        served.send_signal(signal.SIGINT)
        assert (served.wait(60), served.stderr.read()) == (0, "")


def test_beyond_this_machine_a_token_is_asked_for(tmp_path):
    done = run("serve", "--host=0.0.0.0", f"--index={tmp_path / 'none'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--host=0.0.0.0 is beyond this machine: give a --token of 16 or more characters" in done.stderr
    assert done.stderr.count("\n") == 1
