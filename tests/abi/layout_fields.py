#!/usr/bin/env python3
"""The fields of every public struct, as calls of STRUCT and FIELD for abi_layout.c.

Usage: layout_fields.py INCLUDE_DIRECTORY OUTPUT. Read from the headers, so that a new field cannot be forgotten.
"""
import pathlib
import re
import sys


def main():
    lines = []
    for header in sorted(pathlib.Path(sys.argv[1], "shadowkv").glob("*.h")):
        text = re.sub(r"/\*.*?\*/", "", header.read_text(encoding="utf-8"), flags=re.S)
        for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (skv_\w+);", text, re.S):
            lines.append(f"STRUCT({name});")
            for declaration in filter(None, (d.strip() for d in body.split(";"))):
                field = re.search(r"(\w+)(?:\[\w+\])*$", declaration).group(1)
                lines.append(f"FIELD({name}, {field});")
    if len(lines) < 100:
        sys.exit(f"only {len(lines)} lines from {sys.argv[1]}")
    pathlib.Path(sys.argv[2]).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
