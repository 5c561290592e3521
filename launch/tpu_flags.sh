# shellcheck shell=bash disable=SC2034
# tpu_vm.sh, which documents the flags, sources this file: it reads the flags into variables and checks them before
# anything costs money.

name=bridge zone="" project="" accelerator_type="" runtime="" service_account="" tier="" queued="" bucket="" data=""
repo="" commit="" restarts=0 poll_secs=30 dry_run="" workdir="" main_flags=()

fail() {
  echo "error: $1" >&2
  exit "${2:-2}"
}

read_flags() {
  [[ "${1:-}" =~ ^(run|follow|stop|delete)$ ]] ||
    fail "expected run, follow, stop or delete as the first word, got '${1:-}'"
  action="$1"
  shift
  while (($#)); do
    case "$1" in
      --name=?*) name="${1#*=}" ;;
      --zone=?*) zone="${1#*=}" ;;
      --project=?*) project="${1#*=}" ;;
      --accelerator_type=?*) accelerator_type="${1#*=}" ;;
      --runtime=?*) runtime="${1#*=}" ;;
      --service_account=?*) service_account="${1#*=}" ;;
      --bucket=?*) bucket="${1#*=}" ;;
      --data=?*) data="${1#*=}" ;;
      --repo=?*) repo="${1#*=}" ;;
      --commit=?*) commit="${1#*=}" ;;
      --restarts=?*) restarts="${1#*=}" ;;
      --poll_secs=?*) poll_secs="${1#*=}" ;;
      --spot | --reserved)
        [[ -z "$tier" || "$tier" == "$1" ]] || fail "expected one of --spot and --reserved, got both; drop one"
        tier="$1"
        ;;
      --queued) queued=1 ;;
      --dry_run) dry_run=1 ;;
      --)
        shift
        main_flags=("$@")
        break
        ;;
      *)
        fail "expected a flag that the top of launch/tpu_vm.sh lists, got '$1'; flags of bridge_jax.main go after --"
        ;;
    esac
    shift
  done
  [[ "$name" =~ ^[a-z][a-z0-9-]*$ ]] || fail "expected --name of small letters, digits and hyphens, got '$name'"
  [[ -n "$zone" ]] ||
    fail "expected --zone=ZONE, got none; give the zone of your TPU quota, such as --zone=us-west4-a"
  [[ "$poll_secs" =~ ^[0-9]+$ ]] || fail "expected --poll_secs=SECONDS, got '$poll_secs'; give a whole number"
  where=("--zone=$zone" ${project:+"--project=$project"})
}

check_run() {
  local flag
  [[ "$restarts" =~ ^[0-9]+$ ]] || fail "expected --restarts=N, got '$restarts'; give a whole number"
  case "$accelerator_type" in
    v6e-[0-9]*) : "${runtime:=v2-alpha-tpuv6e}" ;;
    v5p-[0-9]*) : "${runtime:=v2-alpha-tpuv5}" ;;
    v5litepod-[0-9]*) : "${runtime:=v2-alpha-tpuv5-lite}" ;;
    v4-[0-9]*) : "${runtime:=tpu-ubuntu2204-base}" ;;
    *)
      fail "expected --accelerator_type=v4-N, v5litepod-N, v5p-N or v6e-N, got '$accelerator_type'; see the README"
      ;;
  esac
  for flag in ${main_flags[@]+"${main_flags[@]}"}; do
    [[ "$flag" != --workdir=* ]] || workdir="${flag#*=}"
  done
  [[ "$bucket" =~ ^[a-z0-9][a-z0-9._-]*$ ]] ||
    fail "expected --bucket=NAME without gs://, got '$bucket'; the run is saved there, since a slice keeps nothing"
  [[ "$workdir" == bucket/?* ]] ||
    fail "expected -- --workdir=bucket/FOLDER, got '$workdir'; --bucket is mounted as bucket/"
  [[ -z "$data" || "$data" == gs://?* ]] ||
    fail "expected --data=gs://BUCKET/FOLDER, got '$data'; copy the data there first, see launch/README.md"
  if [[ -n "$repo" ]]; then
    [[ "$commit" =~ ^[0-9a-f]{40}$ ]] ||
      fail "expected --commit=COMMIT of 40 digits with --repo, got '$commit'; see git log"
  else
    [[ -z "$commit" ]] ||
      fail "expected --repo=URL with --commit, got none; give both, or neither to send HEAD of this repository"
    commit="$(git rev-parse HEAD)"
    [[ -z "$(git status --porcelain --untracked-files=no)" ]] || say "note: uncommitted changes are not sent"
  fi
}
