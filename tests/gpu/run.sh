#!/bin/bash
# Runs one stage of a bundle (tests/gpu/bundle.sh) on a machine with a GPU.
#   run.sh check|kernels|e2e [--bundle FOLDER] [--out FOLDER] [--have FILE] [--rehearse]
# check    the wrappers' conformance vectors, every kernel's tests, small shapes under compute-sanitizer, the same session
#          on CPU and GPU (<= 5 minutes)
# kernels  a table of kernel times beside their floors (<= 5 minutes)
# e2e      decode steps and prefill of a model of Llama-3.1-8B's shape (<= 8 minutes)
# Results are appended to OUT/STAGE.jsonl as they are measured; --have takes such a file and leaves out what stands in it.
# --rehearse: small shapes, and programs that end because there is no GPU are no failure. Exit status 0 only if all is well.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
stage=${1:-} bundle=$here out=. have=/dev/null rehearse=
[ $# -gt 0 ] && shift
while [ $# -gt 0 ]; do
  case $1 in
    --rehearse) rehearse=1; shift; continue ;;
    --bundle | --out | --have) [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; } ;;&
    --bundle) bundle=$2 ;;
    --out) out=$2 ;;
    --have) have=$2 ;;
    *) echo "unknown argument: $1" >&2; exit 2 ;;
  esac
  shift 2
done
mkdir -p "$out"
export OMP_WAIT_POLICY=passive

# NVIDIA's libraries: of a toolkit, or of Python packages.
export LD_LIBRARY_PATH=$bundle:/usr/local/cuda/lib64:$(python3 - <<'PYTHON' 2> /dev/null
import glob, site
print(":".join(d for p in site.getsitepackages() for d in glob.glob(p + "/nvidia/*/lib") + glob.glob(p + "/nvidia/cu*/lib")))
PYTHON
):${LD_LIBRARY_PATH:-}

failed=0
# name, seconds it may take, command
step() {
  local name=$1 limit=$2 status
  shift 2
  echo "== $name"
  timeout "$limit" "$@"
  status=$?
  if [ $status = 2 ] && [ -n "$rehearse" ]; then
    echo "$name: no GPU here"
  elif [ $status != 0 ]; then
    echo "$name: FAILED with status $status"
    failed=$((failed + 1))
  fi
}

# tool, options: over small shapes of every op. They are some 3,300 launches of 6 blocks (counted on the host); the
# tests left out are another 2,200 of 20.
sanitize() {
  step "$1" 60 env SKV_TEST_SMALL=1 compute-sanitizer --tool "$@" --error-exitcode 4 "$bundle/gpu_check" \
    --gtest_brief=1 --gtest_filter='-SubspaceBasis.holds_*'
}

case $stage in
  check)
    step "PTX wrappers" 60 "$bundle/gpu_ptx"
    step "kernels" 150 "$bundle/gpu_check" --gtest_brief=1
    step "CPU and GPU sessions" 60 "$bundle/gpu_device" --gtest_brief=1
    if command -v compute-sanitizer > /dev/null && [ -z "$rehearse" ]; then
      sanitize memcheck
      sanitize racecheck --kernel-name kns=skv  # NVIDIA's kernels answer for their own shared memory
    fi ;;
  kernels)
    step "kernel timings" 300 "$bundle/gpu_kernels" --out "$out/kernels.jsonl" --have "$have"
    [ -n "$rehearse" ] || step "PyTorch" 60 python3 "$bundle/torch_baseline.py" ;;
  e2e)
    step "decode and prefill" 480 "$bundle/gpu_decode" --out "$out/e2e.jsonl" --have "$have" ${rehearse:+--scale 8} ;;
  *) sed -n '2,10s/^# //p' "$0"; exit 2 ;;
esac
echo "$stage: $failed failed"
[ $failed = 0 ]
