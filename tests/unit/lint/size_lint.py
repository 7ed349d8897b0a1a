#!/usr/bin/env python3
"""Rooms stay small: caps on lines of files and functions, one file of a name in the tree, no paths of somebody's machine.

Usage: size_lint.py REPOSITORY. Exceptions, each with its reason, are in size_exceptions.txt beside this file; a name with
a slash at its end excepts a folder.
"""
import collections
import pathlib
import re
import sys

FILE_CAP, CUDA_CAP, PUBLIC_HEADER_CAP, FUNCTION_CAP, KERNEL_CAP = 500, 600, 400, 60, 150
CODE = {".h", ".c", ".cc", ".cu", ".cuh", ".py", ".sh", ".go", ".rs"}
BRACED = {".h", ".c", ".cc", ".cu", ".cuh"}
TEXT = CODE | {".md", ".build", ".txt", ".map", ".in"}
SKIPPED = {".git", "subprojects", "shared"}
# In pieces, so that this file does not name what it looks for.
MACHINE = re.compile("/" + r"(?:home|root|Users)/\w|/" + r"work/\w|\.py" + r"env\b")


def exceptions():
    listed = {}
    for line in (pathlib.Path(__file__).parent / "size_exceptions.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            rule, subject, reason = line.split(None, 2)
            listed[rule, subject] = reason
    return listed


def file_cap(name):
    if name.startswith("include/shadowkv/"):
        return PUBLIC_HEADER_CAP
    return CUDA_CAP if name.endswith(".cu") else FILE_CAP


def functions(lines):
    """(first line, lines between the braces) of bodies that open and close at the left edge, where functions do."""
    start = None
    for i, line in enumerate(lines):
        if start is None:
            opens = line.rstrip().endswith("{") and not line.startswith((" ", "}", "#", "//"))
            if opens and not re.match(r"(namespace|struct|class|enum|union|extern|typedef|const|constexpr|static const)\b",
                                      line) and ("(" in line or ")" in line):
                start = i
            elif re.match(r" {4,}\S.*\) (const |noexcept )*\{$", line) and i and not lines[i - 1].startswith(" "):
                start = i - 1
        elif line.startswith("}"):
            yield start + 1, i - start - 1
            start = None


def check_file(name, text):
    """[(rule, subject, what)]"""
    found, lines = [], text.splitlines()
    suffix = pathlib.PurePosixPath(name).suffix
    if suffix in CODE and len(lines) > file_cap(name):
        found.append(("file", name, f"{len(lines)} lines; {file_cap(name)} are allowed"))
    if suffix in BRACED:
        cap = KERNEL_CAP if name.startswith("kernels/") else FUNCTION_CAP
        found += [("function", name, f"line {at}: a body of {n} lines; {cap} are allowed") for at, n in functions(lines)
                  if n > cap]
    if suffix in TEXT:
        found += [("machine", name, f"line {i}: a machine's path") for i, line in enumerate(lines, 1) if MACHINE.search(line)]
    return found


def self_test():
    long_body = "int f(int a) {\n" + "  a += 1;\n" * 61 + "}\n"
    bad = long_body + "// see /" + "home/someone/file\n" + "\n" * 500
    rules = {rule for rule, _, _ in check_file("lib/x.cc", bad)}
    return [] if rules == {"file", "function", "machine"} else [("self-test", "-", f"only {sorted(rules)} found")]


def main():
    root = pathlib.Path(sys.argv[1])
    found, seen, names = self_test(), 0, collections.defaultdict(list)
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if set(name.split("/")) & SKIPPED or name.startswith("build") or not path.is_file():
            continue
        if path.suffix in TEXT:
            seen += 1
            names[path.name].append(name)
            found += check_file(name, path.read_text(encoding="utf-8"))
    listed = exceptions()
    copies = tuple(subject for rule, subject in listed if rule == "name" and subject.endswith("/"))
    found += [("name", name, "also " + ", ".join(all_of)) for name, all_of in sorted(names.items())
              if sum(not p.startswith(copies) for p in all_of) > 1 and ("name", name) not in listed]
    left = [f for f in found if (f[0], f[1]) not in listed]
    left += [("exception", s, f"{r}: no longer needed") for r, s in listed
             if r != "name" and not any((r, s) == f[:2] for f in found)]
    for rule, subject, what in left:
        print(f"{rule}: {subject}: {what}")
    if seen < 100:
        print(f"only {seen} files were seen")
        return 1
    print(f"{seen} files, {len(left)} over the caps")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
