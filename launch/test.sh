#!/usr/bin/env bash
# Run every check of CI: bash launch/test.sh [--quick] [FLAGS OF pytest]
# With --quick: ruff, pyright and the tests that tests/quick.txt lists, which a change breaks first. Its budget is three
# minutes on two cores, with .venv installed.
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# Tests use small arrays and compile thousands of small programs; in huge pages that takes up to a tenth longer.
unset GLIBC_TUNABLES

# The tests of tools.plan need the TPU's compiler. It lies beside the environment: inside it, every run on a CPU would
# look for TPUs. It is installed in parallel, because pip keeps only one core busy.
[[ -d .venv/libtpu ]] ||
  "$python" -m pip install --quiet --no-compile --target .venv/libtpu "$(grep '^libtpu==' constraints.txt)" &
libtpu=$!
# torch is the oracle of the tests and not part of the package. It is installed first and with its version, so that pip
# takes the build of the user's index and the package's own resolution cannot choose another.
install_package '.[test]' "$(grep '^torch==' constraints.txt)"
wait "$libtpu"
# Trackio forbids the Pillow that the package needs, and runs with it (docs/runs.md).
"$python" -m pip install --quiet --no-compile --no-deps "$(grep '^trackio==' constraints.txt)"
# pytest reads the list itself; tests/launch/test_scripts.py, which is on it, fails where a line names no test.
arguments=()
for word in "$@"; do
  if [[ "$word" == --quick ]]; then word=@tests/quick.txt; fi
  arguments+=("$word")
done
"$python" -m ruff check .
"$python" -m ruff format --check .
# All tests of a file go to one process, because they share its fixtures. Three processes keep two cores busy, because
# some tests wait.
exec "$python" -m pytest -n 3 --dist loadfile --no-loadscope-reorder "${arguments[@]}"
