#!/bin/bash
# Questions about one long text, answered with full attention and with ShadowKV in several codecs. On a bare Debian 12 it
# installs what is missing (root or sudo), builds, runs, prints a table and ends with one JSON line.
#   examples/demo.sh [--tokens N] [--questions N] [--budget TOKENS|PERCENT] [--seed N] [--threads N]
set -euo pipefail
cd "$(dirname "$0")/.."

tokens=32768 questions=50 budget=1.5625% seed=1 threads=0
while [ $# -gt 0 ]; do
  case $1 in
    --tokens | --questions | --budget | --seed | --threads)
      [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; }
      declare "${1#--}=$2"
      shift 2 ;;
    -h | --help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
    *) echo "unknown argument: $1 (--help lists them)" >&2; exit 2 ;;
  esac
done

.ci/install.sh build
build=build/demo
if [ ! -f $build/build.ninja ]; then
  meson setup $build --buildtype=release -Dtests=false -Dcuda=disabled >&2
fi
ninja -C $build examples/shell/shadowkv >&2

shadowkv=$build/examples/shell/shadowkv
work=$build/run
mkdir -p $work
$shadowkv demo-text --model examples/model --tokens "$tokens" --questions "$questions" --seed "$seed" \
  --text $work/text.txt --ask-file $work/questions.jsonl

# A process for each, so that resident memory is its own.
runs=()
ask() {
  local name=$1
  shift
  echo "== $name" >&2
  $shadowkv --model examples/model --prompt-file $work/text.txt --ask-file $work/questions.jsonl --template '{}' \
    --max-new 6 --threads "$threads" --json "$@" > $work/"$name".json
  runs+=("$name=$work/$name.json")
}
shadowkv_policy=(--policy shadowkv --budget "$budget")
ask full --policy full
ask shadowkv "${shadowkv_policy[@]}" --keys lowrank
ask shadowkv_exact_keys "${shadowkv_policy[@]}" --keys exact
ask shadowkv_int8 "${shadowkv_policy[@]}" --keys lowrank --key-codec int8 --value-codec int8 --digest-codec int8
ask shadowkv_int4 "${shadowkv_policy[@]}" --keys exact --key-codec int4 --value-codec int4 --digest-codec int8
ask shadowkv_2bit "${shadowkv_policy[@]}" --keys lowrank --key-codec int8 --value-codec int4 --digest keys-2bit
$shadowkv demo-report "${runs[@]}"
