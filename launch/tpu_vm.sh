#!/usr/bin/env bash
# Train on a Cloud TPU slice: bash launch/tpu_vm.sh run|follow|stop|delete FLAGS [-- FLAGS OF bridge_jax.main]
#
#   run     create the slice or reuse it, send the code, install it, start main on every worker, follow worker 0
#   follow  follow the log of worker 0 again; the exit code is that of the run
#   stop    end the run and keep the slice (and its bill)
#   delete  delete the slice, and the queued resource it came from
#
#   --zone=ZONE  --project=PROJECT  --name=bridge  --poll_secs=30  --dry_run
# and for `run`:
#   --accelerator_type=v5litepod-16  --runtime=VERSION (else the one for the type)  --service_account=EMAIL
#   --queued  --spot  --reserved     a queued resource waits for chips; without --spot and --reserved it is on-demand
#   --bucket=BUCKET                  mounted as bucket/ on every worker; --workdir has to be below it
#   --data=gs://BUCKET/data          copied to data/ on every worker
#   --repo=URL --commit=COMMIT       cloned by the workers; without them HEAD is copied from here
#   --restarts=N                     after a preemption create the slice anew and go on, at most N times (0)
#
# A run that was preempted goes on from its workdir when the same command is given again. --dry_run prints the commands
# for a slice that is not there yet and runs none of them; it needs no gcloud.
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

# state KIND FIELD TYPE_FIELD: the state and the type of slice $name, or nothing where there is none. `list` and not
# `describe`: a failure of gcloud stops the script, and is not taken for an absent slice.
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

# Returns when the slice is up. One that was preempted before is deleted and created anew.
ensure_slice() {
  local found current created=""
  if [[ -n "$dry_run" ]]; then
    create
    [[ -z "$queued" ]] || echo "# wait until the queued resource is ACTIVE"
    return
  fi
  while true; do
    found="$(slice_state)"
    current="${found%% *}"
    case "$current" in
      READY | ACTIVE)
        [[ "${found#* }" =~ ^($accelerator_type)?$ ]] ||
          fail "expected $name to be $accelerator_type, got ${found#* }; delete it or give another --name"
        return
        ;;
      "")
        say "creating $name ($accelerator_type, $zone)"
        create
        created=1
        ;;
      PREEMPTED | TERMINATED | SUSPENDED | FAILED)
        [[ -z "$created" ]] || fail "expected $name to come up, got $current; see gcloud compute tpus ... describe" 1
        say "$name is $current; deleting what is left of it"
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

# A worker that is gone answers nothing, so ssh has to ask.
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
      sleep "$poll_secs" # a preemption ends the run before it shows in the state of the slice
      current="$(slice_state)"
      current="${current%% *}"
      [[ "$current" =~ ^(READY|ACTIVE)$ ]] || break
      ((code == 255)) ||
        fail "the run ended with code $code; its log is above and in bridge_jax/run.log on the workers" "$code"
      say "lost the connection; following again"
    done
    ((left--)) || fail "$name is ${current:-gone}; give the same command again to go on from $workdir" "$code"
    say "$name is ${current:-gone}; going on from $workdir"
  done
}

delete() {
  local found
  if [[ -n "$dry_run" ]]; then
    echo "# where it came from a queued resource, and else:"
    delete_queued
    delete_node
    return
  fi
  found="$(queued_state)"
  if [[ -n "$found" ]]; then
    delete_queued
  else
    found="$(node_state)"
    [[ -z "$found" ]] || delete_node
  fi
  if [[ -n "$found" ]]; then say "deleted $name"; else say "$name is not in $zone: nothing to delete"; fi
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
