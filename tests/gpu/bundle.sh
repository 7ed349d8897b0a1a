#!/bin/bash
# Builds what tests/gpu/run.sh runs on a machine with a GPU, where nothing can be fetched or need be compiled: a folder of
# programs with the libraries that such a machine may lack. Needs nvcc, no GPU.
#   tests/gpu/bundle.sh [FOLDER]     default build/gpu_bundle
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-build/gpu_bundle} build=build/gpu
limit_mib=40

command -v nvcc > /dev/null || PATH=$PATH:/usr/local/cuda/bin
.ci/install.sh build test
if [ ! -f $build/build.ninja ]; then
  meson setup $build --buildtype=release -Dcuda=enabled -Dgpu=true -Donednn=disabled -Dlapack=disabled -Dexamples=false >&2
fi
programs=(gpu_check gpu_ptx gpu_kernels gpu_decode gpu_device)
ninja -C $build lib/libshadowkv_cuda.so "${programs[@]/#/tests/gpu/}" >&2

rm -rf "$out"
mkdir -p "$out"
cp $build/lib/libshadowkv_cuda.so "$out"
for program in "${programs[@]}"; do cp "$build/tests/gpu/$program" "$out"; done
cp tests/gpu/run.sh tests/gpu/torch_baseline.py "$out"
git rev-parse --short HEAD > "$out/commit"
# Small libraries of this system that the other may not have. The C and C++ run times, and NVIDIA's, are its own.
for program in "${programs[@]}"; do ldd "$out/$program"; done |
  awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
  grep -Ev '/(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|libgomp|libcu[a-zA-Z]*|libnv[a-zA-Z]*)\.so' |
  while read -r library; do cp "$library" "$out"; done
strip --strip-unneeded "$out"/*.so* "${programs[@]/#/$out/}"

mib=$(du -sm "$out" | cut -f1)
echo "$out: $mib MiB"
[ "$mib" -le $limit_mib ] || { echo "more than $limit_mib MiB" >&2; exit 1; }
