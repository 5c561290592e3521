# shellcheck shell=bash
# Sourced by local.sh, test.sh and tpu_worker.sh: makes .venv where it is absent and installs the package with the
# tested versions. Leaves the interpreter in $python and the shell in the root of the repository.

# Arrays in huge pages: the kernel otherwise hands out a step's memory 4 KB at a time, which on two cores made a step of
# configs/flickr8k.py a quarter slower (2.8 s against 2.2 s). Elsewhere than on Linux it is just a name.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

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

# install_package REQUIREMENT [PACKAGE_TO_INSTALL_FIRST]: skipped while pyproject.toml and constraints.txt are as they
# were.
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
    "$python" -m pip install --quiet "$2"
  fi
  "$python" -m pip install --quiet --constraint constraints.txt --editable "$1"
  echo "$want" >"$stamp"
}

if [[ ! -x "$python" ]]; then
  make_venv
elif ! is_new_enough "$python"; then
  echo "error: expected Python 3.11 or newer in .venv, got $("$python" --version 2>&1 || true); delete .venv" >&2
  exit 2
fi
