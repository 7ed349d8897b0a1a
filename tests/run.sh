#!/bin/bash
# Sets up what is missing (Debian 12, root or sudo), builds, and runs the tests.
#   tests/run.sh         release build, every test
#   tests/run.sh --all   the same tests, and CUDA kernels executed on the host, under ASan and UBSan; those of several threads
#                        under TSan; all of them with the CUDA module (nvcc) and without oneDNN and LAPACK
# The last line sums the test cases. Exit status 0 only if some ran and none failed.
set -uo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
  '' | --all) ;;
  -h | --help) sed -n '2,6s/^# //p' "$0"; exit 0 ;;
  *) echo "unknown argument: $1 (--help lists them)" >&2; exit 2 ;;
esac
.ci/install.sh build test || exit 1

tally=$(mktemp)
trap 'rm -f "$tally"' EXIT
# Two tests at a time share the cores: threads that spin at a barrier would starve the other test's.
export OMP_WAIT_POLICY=passive

# name, meson options, meson test arguments; the environment is the caller's.
run() {
  local name=$1 options=$2 selection=$3 dir=build/$1
  echo "== $name"
  if [ ! -f "$dir/build.ninja" ]; then
    meson setup "$dir" $options || { echo "1 0 setup:$name" >> "$tally"; return; }
  fi
  # Selected tests build what they need; all tests need all there is.
  if [[ $selection != *_test* ]]; then
    ninja -C "$dir" || { echo "1 0 build:$name" >> "$tally"; return; }
  fi
  rm -rf "$dir/gtest" "$dir/meson-logs/testlog.json"
  GTEST_OUTPUT="json:$PWD/$dir/gtest/" meson test -C "$dir" --print-errorlogs $selection
  tests/count_cases.py "$dir" >> "$tally" || echo "1 0 count:$name" >> "$tally"
}

if [ "${1:-}" = --all ]; then
  cuda=auto
  [ -z "${CI:-}" ] || cuda=enabled
  ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
    run asan "-Dcuda=disabled -Dhost_kernels=true -Doptimization=1 -Ddebug=true -Db_ndebug=false -Db_sanitize=address,undefined -Db_lundef=false" \
    "--timeout-multiplier 5"
  # libgomp is not instrumented: one OpenMP thread each, several host threads. A child of fork() that begins anew starts
  # threads, which TSan refuses unless told.
  OMP_NUM_THREADS=1 TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:die_after_fork=0 \
    run tsan "-Dcuda=disabled -Doptimization=1 -Ddebug=true -Db_ndebug=false -Db_sanitize=thread -Db_lundef=false" \
    "--timeout-multiplier 5 base_executor_test base_memory_test handle_table_test fail_concurrency_test"
  # Unattended (CI is set), a missing nvcc is a failure; elsewhere there is no module to build then.
  run plain "--buildtype=release -Dcuda=$cuda -Dhost_kernels=true -Donednn=disabled -Dlapack=disabled" ""
else
  run release "--buildtype=release -Dcuda=disabled" ""
fi

awk '{ failed += $1; passed += $2; if ($1) print "failed: " $3 } END { print passed + 0 " passed, " failed + 0 " failed"
  exit !(passed > 0 && failed == 0) }' "$tally"
