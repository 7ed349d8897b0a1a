#!/usr/bin/env python3
"""Writes the source of skv::device::build_id(): the compiler and a hash of the headers that cross between libraries.

Usage: build_id.py REPOSITORY OUTPUT DEPFILE. The interface between libshadowkv.so and its CUDA module is C++: vtables
and structs of kernels/, and the contracts in their comments. With different headers the two do not work together.
"""
import hashlib
import pathlib
import sys

FOLDERS = {"include": {".h"}, "kernels": {".h"}, "lib/base": {".h"}, "lib/device": {".h"}}

SOURCE = """#include "lib/device/backend.h"

const char* skv::device::build_id() {{ return "{digest}, " __VERSION__; }}
"""


def main():
    root, output, depfile = (pathlib.Path(argument) for argument in sys.argv[1:4])
    headers = sorted(path for folder, suffixes in FOLDERS.items() for path in (root / folder).rglob("*")
                     if path.suffix in suffixes)
    digest = hashlib.sha256()
    for path in headers:
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    output.write_text(SOURCE.format(digest=digest.hexdigest()[:12]), encoding="utf-8")
    depfile.write_text(f"{output.name}: " + " ".join(str(path).replace(" ", "\\ ") for path in headers) + "\n",
                       encoding="utf-8")


if __name__ == "__main__":
    main()
