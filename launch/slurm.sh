#!/usr/bin/env bash
# Train on the GPU nodes of a Slurm cluster, from the root of the repository:
#   sbatch [OPTIONS OF sbatch] launch/slurm.sh FLAGS OF bridge_jax.main
#   bash launch/slurm.sh --dry_run FLAGS OF bridge_jax.main      prints the commands of that job
#
# The #SBATCH lines are the defaults of those options. A job that is preempted or reaches its time limit is queued again
# and resumes from its workdir. The workdir and this folder with .venv must be on a file system that all nodes share.
#
# All tasks of a node see all of its GPUs, and JAX gives each task the GPU of its number. Do not add --gpus-per-task or
# --gpu-bind, which would hide GPUs. With --ntasks-per-node=1 one process has all GPUs of its node.
#SBATCH --job-name=bridge
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail

fail() {
  echo "error: $1" >&2
  exit 2
}

check_workdir() {
  local flag
  for flag in "$@"; do
    if [[ "$flag" == --workdir=?* ]]; then
      return
    fi
  done
  fail "expected --workdir=FOLDER, got none; give a folder that all nodes share; a requeued job resumes from it"
}

print() { printf '%q ' "$@" | sed 's/ $//' && echo; }

dry_run=""
if [[ "${1:-}" == --dry_run ]]; then
  dry_run=1
  shift
fi
check_workdir "$@"
# --kill-on-bad-exit: without it the other processes would wait for a dead one.
command=(srun --kill-on-bad-exit=1 .venv/bin/python -m bridge_jax.main "$@")

if [[ -n "$dry_run" ]]; then
  print sbatch launch/slurm.sh "$@"
  echo "# on the first node, once the job has started:"
  print "${command[@]}"
  exit
fi
[[ -n "${SLURM_JOB_ID:-}" ]] ||
  fail "expected to run in a Slurm job, got a plain shell; submit it: sbatch launch/slurm.sh ..."
cd "$SLURM_SUBMIT_DIR" # Slurm runs a copy of this file from a folder of its own
[[ -f bridge_jax/main.py ]] || fail "expected a job submitted from the repository root, got $PWD; cd there first"
[[ -x .venv/bin/python ]] || fail "expected .venv with the package, got none in $PWD; see launch/README.md"

export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # since Slurm 22.05 srun no longer inherits it from sbatch
if [[ "${SLURM_NTASKS_PER_NODE:-}" == 1 && "${SLURM_GPUS_ON_NODE:-1}" -gt 1 ]]; then
  JAX_LOCAL_DEVICE_IDS="$(seq -s, 0 "$((SLURM_GPUS_ON_NODE - 1))")"
  export JAX_LOCAL_DEVICE_IDS
fi

# The signal ends `wait` but not srun; Slurm ends srun when it takes the job back.
trap 'scontrol requeue "$SLURM_JOB_ID" || true' USR1
"${command[@]}" &
while true; do
  code=0
  wait "$!" || code=$?
  kill -0 "$!" 2>/dev/null || exit "$code"
done
