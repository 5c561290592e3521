# shellcheck shell=bash
# Sourced by local.sh, test.sh and tpu_worker.sh: makes .venv where it is absent and installs the package with the
# tested versions. Leaves the interpreter in $python and the shell in the root of the repository.

# Settings that make a step on CPUs faster, unless the user says otherwise; tools.bench_step measures it, and the
# figures are in docs/results.md. Arrays in huge pages, where the kernel otherwise hands out a step's memory 4 KB at a
# time (a name only, elsewhere than on Linux); and products by Eigen, which for a small model's tall, narrow matrices
# reaches 90 % of a square product's rate, where XLA's own choice (YNNPACK) reaches 70 %.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
export XLA_FLAGS="${XLA_FLAGS:---xla_cpu_experimental_ynn_fusion_type=-individual_dot}"

# Python compiles what is imported at its first import and keeps it; pip compiles nothing here, as it would compile all
# that is installed, half of its time. Images that turn keeping off have every program compile it again, for 1.7 s.
unset PYTHONDONTWRITEBYTECODE

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
python=.venv/bin/python

# True where "$1" runs and is Python 3.11 or newer.
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

# install_package REQUIREMENT [PACKAGE_TO_INSTALL_FIRST]: skipped while neither pyproject.toml nor constraints.txt
# changed.
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
