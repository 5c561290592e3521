#!/usr/bin/env bash
# Train on a Cloud TPU slice: bash launch/tpu_vm.sh run|follow|stop|delete FLAGS [-- FLAGS OF bridge_jax.main]
#
#   run     create the slice or reuse it, send the code, install it, start main on every worker, follow worker 0
#   follow  follow the log of worker 0 again and exit with the code of the run
#   stop    end the run and keep the slice, which costs money until it is deleted
#   delete  delete the slice, and the queued resource it came from
#
#   --zone=ZONE  --project=PROJECT  --name=bridge  --poll_secs=30  --dry_run
# and for `run`:
#   --accelerator_type=v5litepod-16  --runtime=VERSION (default: the type's own)  --service_account=EMAIL
#   --queued  --spot  --reserved     queued: wait for chips; without --spot and --reserved the slice is on-demand
#   --bucket=BUCKET                  mounted as bucket/ on every worker; --workdir must be below it
#   --data=gs://BUCKET/data          copied to data/ on every worker
#   --repo=URL --commit=COMMIT       cloned by the workers; without them, HEAD is copied from here
#   --restarts=N                     after a preemption, create the slice again and resume, at most N times (0)
#
# Give the same command again to resume a preempted run from its workdir. --dry_run prints the commands for a new slice
# and runs none of them; it needs no gcloud.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=launch/tpu_flags.sh
source launch/tpu_flags.sh

say() { echo "$*" >&2; }

# Runs a command, or prints it so that it can be pasted into a shell.
call() {
  if [[ -n "$dry_run" ]]; then
    printf '%q ' "$@" | sed 's/ $//'
    echo
  else
    "$@"
  fi
}

# state KIND FIELD TYPE_FIELD: prints the state and the type of slice $name, or nothing where there is none. It uses
# `list` and not `describe`, so that a failure of gcloud stops the script and does not pass for an absent slice.
state() {
  gcloud compute tpus "$1" list "${where[@]}" --format="value(name.basename(),$2,$3.basename())" |
    awk -v name="$name" '$1 == name { print $2, $3 }'
}
node_state() { state tpu-vm state acceleratorType; }
queued_state() { state queued-resources state.state 'tpu.nodeSpec[0].node.acceleratorType'; }
slice_state() { if [[ -n "$queued" ]]; then queued_state; else node_state; fi; }

create() {
  local options=("--accelerator-type=$accelerator_type")
  local more=(${tier:+"$tier"} ${service_account:+"--service-account=$service_account"})
  if [[ -n "$queued" ]]; then
    options=("--node-id=$name" "${options[@]}" "--runtime-version=$runtime" ${more[@]+"${more[@]}"})
    call gcloud compute tpus queued-resources create "$name" "${where[@]}" "${options[@]}"
  else
    options=("${options[@]}" "--version=$runtime" ${more[@]+"${more[@]}"})
    call gcloud compute tpus tpu-vm create "$name" "${where[@]}" "${options[@]}"
  fi
}
delete_node() { call gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet; }
delete_queued() { call gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet; }

# Returns when the slice is up. A slice that was preempted before is deleted and created again.
ensure_slice() {
  local status current created=""
  if [[ -n "$dry_run" ]]; then
    create
    [[ -z "$queued" ]] || echo "# wait until the queued resource is ACTIVE"
    return
  fi
  while true; do
    status="$(slice_state)"
    current="${status%% *}"
    case "$current" in
      READY | ACTIVE)
        [[ "${status#* }" =~ ^($accelerator_type)?$ ]] ||
          fail "expected $name to be $accelerator_type, got ${status#* }; delete it or give another --name"
        return
        ;;
      "")
        say "creating $name ($accelerator_type, $zone)"
        create
        created=1
        ;;
      PREEMPTED | TERMINATED | SUSPENDED | FAILED)
        [[ -z "$created" ]] || fail "expected $name to come up, got $current; see gcloud compute tpus ... describe" 1
        say "$name is $current; deleting its remains"
        if [[ -n "$queued" ]]; then delete_queued; else delete_node; fi
        ;;
      STOPPED | HIDDEN) fail "expected $name to be READY, got $current; start it with gcloud, or delete it" ;;
      *)
        say "$name is $current"
        sleep "$poll_secs"
        ;;
    esac
  done
}

# on WORKER "COMMAND" [FLAGS OF ssh]: runs a command line on a worker, or on all.
on() { call gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" "--worker=$1" "--command=$2" "${@:3}"; }

worker() { printf 'cd bridge_jax && bash launch/tpu_worker.sh%s' "$(printf ' %q' "$@")"; }

send_code() {
  local file="bridge_jax-${commit:0:12}.bundle" fetch
  if [[ -n "$repo" ]]; then
    fetch="$(printf 'fetch --quiet %q %q' "$repo" "$commit")"
  else
    call git bundle create --quiet "${TMPDIR:-/tmp}/$file" HEAD
    call gcloud compute tpus tpu-vm scp "${TMPDIR:-/tmp}/$file" "$name:" "${where[@]}" --worker=all
    fetch="fetch --quiet ../$file HEAD"
  fi
  on all "git init --quiet bridge_jax && cd bridge_jax && git $fetch && git checkout --quiet --force --detach $commit"
}

# A lost worker does not answer, so ssh asks it regularly.
follow() { on 0 "$(worker follow)" --ssh-flag=-oServerAliveInterval=30; }

run() {
  local code current left="$restarts"
  while true; do
    ensure_slice
    send_code
    on all "$(worker install "--bucket=$bucket" ${data:+"--data=$data"})"
    on all "$(worker start "${main_flags[@]}")"
    while true; do
      code=0
      follow || code=$?
      ((code)) || return 0
      sleep "$poll_secs" # a preemption ends the run before the state of the slice shows it
      current="$(slice_state)"
      current="${current%% *}"
      [[ "$current" =~ ^(READY|ACTIVE)$ ]] || break
      ((code == 255)) ||
        fail "the run ended with code $code; its log is above and in bridge_jax/run.log on the workers" "$code"
      say "lost the connection; following again"
    done
    ((left--)) || fail "$name is ${current:-gone}; give the same command again to resume from $workdir" "$code"
    say "$name is ${current:-gone}; resuming from $workdir"
  done
}

delete() {
  local status
  if [[ -n "$dry_run" ]]; then
    echo "# the first where the slice came from a queued resource, else the second:"
    delete_queued
    delete_node
    return
  fi
  status="$(queued_state)"
  if [[ -n "$status" ]]; then
    delete_queued
  else
    status="$(node_state)"
    [[ -z "$status" ]] || delete_node
  fi
  if [[ -n "$status" ]]; then say "deleted $name"; else say "$name is not in $zone: nothing to delete"; fi
}

read_flags "$@"
case "$action" in
  run)
    check_run
    run
    ;;
  follow) follow ;;
  stop) on all "$(worker stop)" ;;
  delete) delete ;;
esac
