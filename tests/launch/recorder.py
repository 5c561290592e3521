"""Stand for the program named by the first argument: record the call, and answer as state.json says.

    slices, queued    name -> [state, accelerator type]; a list of states in place of one is gone through, one a look
    after_create      the states of a queued resource after its creation
    runs              what following a run ends with: an exit code, or [code, state of the slice afterwards]
    fail              text -> exit code: a call that holds the text fails
    workers           the home folders in which `ssh` runs its command

`tpu-vm ssh` really runs the command and `tpu-vm scp` really copies, in a folder for every worker, but for `follow`,
which answers from `runs`. Runs without the site packages (python -S), so that it starts in milliseconds.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ["RECORDER"])


def flag_value(words, flag):
    return next((word.split("=", 1)[1] for word in words if word.startswith(f"{flag}=")), None)


def listed(resources):
    for name, (states, kind) in resources.items():
        several = isinstance(states, list) and len(states) > 1
        now = states.pop(0) if several else states[0] if isinstance(states, list) else states
        print(name, now, kind, sep="\t")


def lose_workers(state):
    """Remove the workers' pid files: a new slice has new machines, on which nothing runs."""
    for home in state["workers"]:
        Path(home, "bridge_jax/run.pid").unlink(missing_ok=True)


def tpus(words, state):
    kind, action, name = words[2], words[3], words[4]
    resources = state["queued" if kind == "queued-resources" else "slices"]
    if action == "list":
        listed(resources)
    elif action == "create":
        states = state["after_create"] if kind == "queued-resources" else "READY"
        resources[name] = [states, flag_value(words, "--accelerator-type")]
    elif action == "delete":
        del resources[name]
        lose_workers(state)
    elif action == "scp":
        for home in state["workers"]:
            shutil.copy(name, home)
    elif action == "ssh":
        return ssh(words, state)
    return 0


def ssh(words, state):
    command = flag_value(words, "--command")
    if command.endswith("follow"):
        outcome = state["runs"].pop(0)
        code, after = outcome if isinstance(outcome, list) else (outcome, None)
        for resources in (state["slices"], state["queued"]):
            for name in list(resources):
                if after == "gone":
                    del resources[name]
                    lose_workers(state)
                elif after:
                    resources[name][0] = after
        return code
    homes = state["workers"] if flag_value(words, "--worker") == "all" else state["workers"][:1]
    codes = [subprocess.run(["bash", "-c", command], cwd=home).returncode for home in homes]
    return max(codes)


def main(program, words):
    state = json.loads((FOLDER / "state.json").read_text())
    with (FOLDER / "calls.jsonl").open("a") as log:
        log.write(json.dumps([program, *words]) + "\n")
    for text, code in state["fail"].items():
        if text in " ".join([program, *words]):
            print(f"ERROR: ({program}) simulated", file=sys.stderr)
            return code
    code = 0
    if program == "gcloud" and words[:2] == ["compute", "tpus"]:
        code = tpus(words, state)
        (FOLDER / "state.new").write_text(json.dumps(state))
        (FOLDER / "state.new").replace(FOLDER / "state.json")  # a run in the background may be reading it
    elif program == "findmnt":
        print(state.get("mounted", ""))
    elif words[:4] == ["-m", "uv", "python", "find"]:
        print("/opt/python3.11")
    elif program == "srun" or words[:2] == ["-m", "bridge_jax.main"]:
        print("training", *words, flush=True)
        time.sleep(state.get("seconds", 0))
        code = state.get("code", 0)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
