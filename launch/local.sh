#!/usr/bin/env bash
# Train on this machine: bash launch/local.sh [FLAGS OF bridge_jax.main]
#
# Without flags, prepares the embedded data set (coloured shapes) and trains configs/shapes.py. Paths are relative to
# the root of the repository. Examples:
#   bash launch/local.sh --config.seed=1 --workdir=runs/shapes_seed1
#   bash launch/local.sh --config=configs/shapes.py:task=vqa     # into runs/shapes_vqa
#   bash launch/local.sh --config=configs/flickr8k.py
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# A run repeats one step, so the allocator keeps its memory for the next one. (Not in tests: they run many programs.)
export GLIBC_TUNABLES="$GLIBC_TUNABLES:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736"

config=configs/shapes.py
workdir=""
data_dir=data
flags=()
while (($#)); do
  case "$1" in
    --config | --workdir | --config.data.data_dir) # the value is the next argument
      if (($# < 2)); then
        echo "error: expected a value after $1, got none; give $1=VALUE" >&2
        exit 2
      fi
      set -- "$1=$2" "${@:3}"
      continue
      ;;
    --config=*) config="${1#*=}" ;;
    --workdir=*) workdir="${1#*=}" ;;
    --config.data.data_dir=*)
      data_dir="${1#*=}"
      flags+=("$1")
      ;;
    *) flags+=("$1") ;;
  esac
  shift
done
name="$(basename "${config%%:*}" .py)" # a config may carry an argument: configs/x.py:argument

install_package .
if [[ "$name" == shapes ]]; then
  "$python" -m tools.prepare_data --dataset=shapes --data_dir="$data_dir"
fi
argument="${config#"${config%%:*}"}" # :task=vqa, or nothing
argument="${argument#*=}"
workdir="${workdir:-runs/$name${argument:+_${argument//,time=/_}}}"
exec "$python" -m bridge_jax.main --config="$config" --workdir="$workdir" ${flags[@]+"${flags[@]}"}
