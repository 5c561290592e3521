#!/usr/bin/env bash
# tpu_vm.sh runs this script on every worker, in ~/bridge_jax:
#   tpu_worker.sh install FLAGS | start FLAGS OF bridge_jax.main | follow | stop
# with the flags of install: --bucket=BUCKET [--data=gs://BUCKET/data]
#
# A lost worker loses only run.log, the output of the run: the workdir is in the bucket.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  echo "error: $1" >&2
  exit 2
}

mount_bucket() {
  local mounted
  mounted="$(findmnt --noheadings --output SOURCE bucket || true)"
  if [[ "$mounted" == "$1" ]]; then
    return
  fi
  [[ -z "$mounted" ]] || fail "expected bucket/ to be $1, got $mounted; delete the slice, or fusermount -u bucket"
  if ! command -v gcsfuse >/dev/null; then
    curl --silent --show-error --fail https://packages.cloud.google.com/apt/doc/apt-key.gpg |
      sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null
    echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt" \
      "gcsfuse-$(lsb_release --codename --short) main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get update -qq
    sudo apt-get install -qq -y gcsfuse
  fi
  mkdir -p bucket
  # No metadata is cached: every host must see at once the files that another wrote into a checkpoint.
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 "$1" bucket
}

install() {
  local bucket="" data="" flag
  for flag in "$@"; do
    case "$flag" in
      --bucket=?*) bucket="${flag#*=}" ;;
      --data=?*) data="${flag#*=}" ;;
      *) fail "expected --bucket=BUCKET or --data=gs://BUCKET/FOLDER, got '$flag'" ;;
    esac
  done
  [[ -n "$bucket" ]] || fail "expected --bucket=BUCKET, got none"
  # TPU VMs come with Python 3.10, so uv installs a newer one.
  python3 -m pip install --quiet --user uv
  python3 -m uv python install --quiet 3.11
  PYTHON="$(python3 -m uv python find 3.11)"
  # shellcheck source=launch/environment.sh
  source launch/environment.sh
  install_package '.[tpu]'
  mount_bucket "$bucket"
  if [[ -n "$data" ]]; then
    mkdir -p data
    gcloud storage rsync --recursive "$data" data
  fi
}

is_running() { [[ -f run.pid ]] && kill -0 "$(cat run.pid)" 2>/dev/null; }

start() {
  if is_running; then
    fail "expected no run on this worker, got process $(cat run.pid); follow it, or stop it first: tpu_vm.sh stop"
  fi
  rm -f run.code
  # It gets a session of its own, so that it outlives the connection and stops with all its processes.
  setsid nohup bash launch/tpu_worker.sh run "$@" >run.log 2>&1 </dev/null &
  echo $! >run.pid
}

run() {
  local code=0
  .venv/bin/python -m bridge_jax.main "$@" || code=$?
  echo "$code" >run.code
}

follow() {
  [[ -f run.pid ]] || fail "expected a run on this worker, got none; start one: tpu_vm.sh run"
  tail --pid="$(cat run.pid)" --lines=+1 --follow run.log
  [[ -f run.code ]] || fail "the run was stopped before it ended; give the command of tpu_vm.sh run again to resume"
  exit "$(cat run.code)"
}

stop() {
  if is_running; then
    kill -TERM -- "-$(cat run.pid)"
    tail --pid="$(cat run.pid)" --follow /dev/null # waits until it has ended
  fi
}

case "${1:-}" in
  install | start | run | follow | stop) "$@" ;;
  *) fail "expected install, start, follow or stop as the first word, got '${1:-}'" ;;
esac
