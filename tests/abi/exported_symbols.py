#!/usr/bin/env python3
"""What the headers declare, what the map lists, what the library exports and what was promised are the same names.

Usage: exported_symbols.py LIBRARY REPOSITORY
"""
import pathlib
import re
import subprocess
import sys


def declared(repository):
    text = "".join(h.read_text(encoding="utf-8") for h in sorted((repository / "include/shadowkv").glob("*.h")))
    return set(re.findall(r"^SKV_API[^;(]*?\b(\w+)\s*\(", text, re.M))


def mapped(repository):
    """{symbol: version node}; the last local must be everything."""
    text = (repository / "lib/abi/libshadowkv.map").read_text(encoding="utf-8")
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    nodes = re.findall(r"(SHADOWKV_[\d.]+) \{(.*?)\}", text, re.S)
    symbols = {}
    for node, body in nodes:
        for symbol in re.findall(r"([\w*]+);", body.split("local:")[0].replace("global:", "")):
            symbols[symbol] = node
    return symbols, "local:" in text and re.search(r"local:\s*\*;", text) is not None


def exported(library):
    """{name as nm says it}, version nodes themselves left out."""
    out = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    lines = [line.split() for line in out.splitlines()]
    return {line[-1] for line in lines if line[-2] != "A"}


def main():
    library, repository = sys.argv[1], pathlib.Path(sys.argv[2])
    found = []

    def same(what, a, b):
        if a != b:
            found.append(f"{what}: only the first has {sorted(a - b)}, only the second {sorted(b - a)}")

    symbols, local_all = mapped(repository)
    versioned = {f"{name}@@{node}" for name, node in symbols.items()}
    golden = set((repository / "lib/abi/golden_symbols.txt").read_text(encoding="utf-8").split())
    names = exported(library)
    same("headers and map", declared(repository), set(symbols))
    same("map and library", versioned, names)
    same("library and golden list", names, golden)
    found += [f"not one of ours: {n}" for n in sorted(names) if not n.startswith("skv_")]
    if not local_all:
        found.append("the map does not end in local: *")
    soname = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True).stdout
    if not re.search(r"SONAME.*\[libshadowkv\.so\.0\]", soname):
        found.append("the soname is not libshadowkv.so.0")
    print("\n".join(found) if found else f"{len(names)} symbols")
    return 1 if found or len(names) < 30 else 0


if __name__ == "__main__":
    sys.exit(main())
