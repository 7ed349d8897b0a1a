#!/usr/bin/env python3
"""The CUDA module exports its entry and nothing else, needs no CUDA runtime library, and stays loaded.

Usage: device_module_symbols.py MODULE
"""
import subprocess
import sys


def tool(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main():
    module, found = sys.argv[1], []
    exported = {line.split()[-1] for line in tool("nm", "-D", "--defined-only", module).splitlines()}
    if exported != {"skv_cuda_module_1"}:
        found.append(f"exported: {sorted(exported)}")
    own = [line for line in tool("nm", "-D", "-u", module).splitlines() if "3skv" in line]
    if own:
        found.append(f"not defined: {own}")
    dynamic = tool("readelf", "-d", module)
    if "libcudart" in dynamic:
        found.append("it needs libcudart.so")
    if "NODELETE" not in dynamic:
        found.append("it can be unloaded")
    print("\n".join(found) if found else "one symbol")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
