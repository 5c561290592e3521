# shellcheck shell=bash
# local.sh, test.sh and tpu_worker.sh source this file. It makes .venv where it is absent and installs the package with
# the tested versions. It leaves the interpreter in $python and the shell in the root of the repository.

# These settings make a step on CPUs faster, unless the user sets others; tools.bench_step measures them, and
# docs/results.md has the figures. Huge pages hold the arrays, where the kernel would otherwise hand out a step's memory
# 4 KB at a time (without effect elsewhere than on Linux). Eigen computes the products: for a small model's tall, narrow
# matrices it reaches 90 % of a square product's rate, while XLA's own choice (YNNPACK) reaches 70 %.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
export XLA_FLAGS="${XLA_FLAGS:---xla_cpu_experimental_ynn_fusion_type=-individual_dot}"

# Python compiles a module at its first import and keeps the result. pip compiles nothing here: it would compile all
# installed modules and spend half of its time on it. Some images turn keeping off; there every program would compile
# its imports again, for 1.7 s.
unset PYTHONDONTWRITEBYTECODE

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
python=.venv/bin/python

# Succeeds where "$1" runs and is Python 3.11 or newer.
is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

make_venv() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    if is_new_enough "$candidate"; then
      echo "making .venv with $candidate" >&2
      "$candidate" -m venv .venv && return
      rm -rf .venv
      echo "error: '$candidate -m venv .venv' failed; on Debian and Ubuntu: apt-get install python3-venv" >&2
      exit 2
    fi
  done
  echo "error: expected Python 3.11 or newer, got $("${PYTHON:-python3}" --version 2>&1 || true);" \
    "install it, or set PYTHON=/path/to/python3.11" >&2
  exit 2
}

# install_package REQUIREMENT [PACKAGE_TO_INSTALL_FIRST]: installs, unless pyproject.toml and constraints.txt are
# unchanged since the last time.
install_package() {
  local extra stamp want
  extra="${1//[^a-z]/}"
  stamp=".venv/installed-${extra:-plain}"
  want="$(cat pyproject.toml constraints.txt | cksum) $*"
  if [[ "$(cat "$stamp" 2>/dev/null || true)" == "$want" ]]; then
    return
  fi
  echo "installing $* into .venv (a few minutes the first time)" >&2
  if [[ -n "${2:-}" ]]; then
    "$python" -m pip install --quiet --no-compile "$2"
  fi
  "$python" -m pip install --quiet --no-compile --constraint constraints.txt --editable "$1"
  echo "$want" >"$stamp"
}

if [[ ! -x "$python" ]]; then
  make_venv
elif ! is_new_enough "$python"; then
  echo "error: expected Python 3.11 or newer in .venv, got $("$python" --version 2>&1 || true); delete .venv" >&2
  exit 2
fi
