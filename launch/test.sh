#!/usr/bin/env bash
# Every check that CI runs: bash launch/test.sh [FLAGS OF pytest]
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# Tests have small arrays and compile thousands of small programs, which in huge pages takes up to a tenth longer.
unset GLIBC_TUNABLES

# The TPU's compiler, for the tests of tools.plan. Beside the environment: in it, every run on a CPU looks for TPUs.
# At the same time as the rest, as pip keeps one core busy.
[[ -d .venv/libtpu ]] ||
  "$python" -m pip install --quiet --no-compile --target .venv/libtpu "$(grep '^libtpu==' constraints.txt)" &
libtpu=$!
# torch is the oracle of the tests and no part of the package. On its own and with its version, so that pip takes the
# build of whatever index it is given and the package's own resolution cannot choose another.
install_package '.[test]' "$(grep '^torch==' constraints.txt)"
wait "$libtpu"
"$python" -m ruff check .
"$python" -m ruff format --check .
# The tests of a file go to one process, as they share what it prepares; three processes keep two cores busy, as some
# tests wait.
exec "$python" -m pytest -n 3 --dist loadfile --no-loadscope-reorder "$@"
