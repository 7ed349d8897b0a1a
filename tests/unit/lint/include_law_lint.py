#!/usr/bin/env python3
"""Includes go down: include/shadowkv <- lib/api -> lib/engine -> lib/model -> lib/kv -> lib/device -> kernels.

Usage: include_law_lint.py REPOSITORY. lib/base serves lib/* and kernels. Headers of kernels (op tables, plain data) may
be included from every layer above; nobody includes upward. Examples see the public headers only.
"""
import pathlib
import re
import sys

LAYERS = ["lib/api", "lib/engine", "lib/model", "lib/kv", "lib/device", "kernels"]
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)
SOURCES = {".h", ".c", ".cc", ".cu", ".cuh"}


def layer_of(path):
    for layer in LAYERS + ["lib/base", "include/shadowkv", "examples", "bindings"]:
        if path.startswith(layer + "/"):
            return layer
    return None


def target_of(included):
    return "include/" + included if included.startswith("shadowkv/") else included


def allowed(path, included, quoted):
    layer, target = layer_of(path), target_of(included)
    to = layer_of(target)
    if layer is None:
        return True  # tests look everywhere
    if layer == "include/shadowkv":
        return "/" not in included if quoted else included in ("stdint.h", "stddef.h")
    if to is None:
        return "/" not in included or not quoted  # system headers, and files beside this one
    if to == "include/shadowkv":
        return layer != "kernels"
    if layer in ("examples", "bindings"):
        return to == layer
    if to == "lib/base":
        return True
    if layer == "lib/base" or to not in LAYERS:
        return to == layer
    return LAYERS.index(to) >= LAYERS.index(layer)


def self_test():
    cases = [("lib/kv/a.cc", "lib/kv/b.h", True), ("lib/kv/a.cc", "lib/model/b.h", False), ("lib/kv/a.cc", "kernels/ops.h", True),
             ("kernels/gemm/a.cc", "lib/base/b.h", True), ("kernels/gemm/a.cc", "lib/kv/b.h", False),
             ("lib/base/a.h", "lib/kv/b.h", False), ("lib/base/a.h", "shadowkv/types.h", True),
             ("kernels/gemm/a.h", "shadowkv/types.h", False), ("examples/a.c", "lib/base/b.h", False),
             ("lib/api/a.cc", "lib/engine/b.h", True), ("lib/engine/a.cc", "lib/api/b.h", False),
             ("include/shadowkv/a.h", "lib/base/b.h", False)]
    return [f"self-test: {c}" for c in cases if allowed(c[0], c[1], True) != c[2]]


def main():
    root = pathlib.Path(sys.argv[1])
    found, n = self_test(), 0
    for top in ["include", "lib", "kernels", "examples", "bindings"]:
        for path in sorted((root / top).rglob("*")):
            if path.suffix not in SOURCES or not path.is_file():
                continue
            name = path.relative_to(root).as_posix()
            n += 1
            for quote, included in INCLUDE.findall(path.read_text(encoding="utf-8")):
                if not allowed(name, included, quote == '"'):
                    found.append(f"{name} includes {included}")
    if n < 50:
        found.append(f"only {n} files were seen")
    print("\n".join(found) if found else f"{n} files keep the law")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
