#!/bin/bash
# Benchmarks: one JSON line a row (conventions: README.md, "Figures").
#   tests/bench/run.sh attention [--tokens N] [--layers N] [--samples N] [--correlation C] [--configs NAME,NAME,...]
#   tests/bench/run.sh prefill [TOKENS]
#   tests/bench/run.sh accuracy-attention [--tokens N] [--questions N] [--budget F] [--seed N] [--trace NAME]
#   tests/bench/run.sh kernels [OP...]
# attention at 131,072 tokens and 16 layers takes 9 GB of memory; accuracy-attention leaves its rows, and a picture where
# matplotlib is there, in build/release.
set -euo pipefail
cd "$(dirname "$0")/../.."
kind=${1:-}
case $kind in
  attention | prefill | accuracy-attention | kernels) shift ;;
  *) sed -n '2,9s/^# //p' "$0" >&2; exit 2 ;;
esac

.ci/install.sh build test
dir=build/release
[ -f $dir/build.ninja ] || meson setup $dir --buildtype=release -Dcuda=disabled >&2
SKV_COMMIT=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
git diff --quiet HEAD 2>/dev/null || SKV_COMMIT+=-changed
export SKV_COMMIT

case $kind in
  attention)
    ninja -C $dir tests/bench/attention_bench >&2
    $dir/tests/bench/attention_bench "$@" ;;
  prefill)
    ninja -C $dir tests/bench/prefill_bench >&2
    # A process for each: the peak of resident memory never falls.
    for variant in full shadowkv shadowkv_exact_keys; do
      $dir/tests/bench/prefill_bench examples/model "${1:-32768}" $variant
    done ;;
  accuracy-attention)
    ninja -C $dir tests/bench/accuracy_bench >&2
    # The rows, then all of them as tables; with matplotlib also as a picture.
    $dir/tests/bench/accuracy_bench examples/model "$@" | tee $dir/accuracy.jsonl
    picture=()
    python3 -c 'import matplotlib' 2>/dev/null && picture=(--picture $dir/accuracy.svg)
    tests/bench/accuracy_report.py "${picture[@]}" < $dir/accuracy.jsonl ;;
  kernels)
    [ $# -gt 0 ] || set -- landmark_score topk_select slot_update chunk_fetch key_rebuild attn_decode attn_prefill \
      landmark_build block_store guard_sample guard_grow attn_remainder rope gemm rms_norm swiglu gram \
      subspace_basis key_project
    for op in "$@"; do
      ninja -C $dir "tests/kernels/${op}_test" >&2
      "$dir/tests/kernels/${op}_test" --bench
    done ;;
esac
