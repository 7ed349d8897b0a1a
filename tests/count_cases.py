#!/usr/bin/env python3
"""Counts the test cases of the last `meson test` of a build folder: count_cases.py BUILD

A GoogleTest program counts by its cases (BUILD/gtest/*.json, from GTEST_OUTPUT), any other test as one. A program that ends
badly without a failed case, by a crash or the time limit, is one failure more. Skipped cases count as neither and are
named on stderr. Prints a line for each test: failed, passed, name.
"""
import collections
import json
import pathlib
import re
import sys


def cases(report):
    """(passed, failed, [skipped]) of one GoogleTest report."""
    passed, failed, skipped = 0, 0, []
    for suite in report.get("testsuites", []):
        for case in suite.get("testsuite", []):
            if case.get("failures"):
                failed += 1
            elif case.get("result") == "SKIPPED" or case.get("status") == "NOTRUN":
                skipped.append(f"{suite['name']}.{case['name']}")
            else:
                passed += 1
    return passed, failed, skipped


def reports(folder):
    """Reports by program: name.json, and name_1.json and so on when it ran more than once."""
    found = collections.defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        found[path.stem].append(path)
    return found


def of_program(found, program):
    return [path for stem, paths in found.items() for path in paths
            if stem == program or re.fullmatch(re.escape(program) + r"_\d+", stem)]


def main():
    build = pathlib.Path(sys.argv[1])
    log = (build / "meson-logs" / "testlog.json").read_text(encoding="utf-8").splitlines()
    found, counted, total = reports(build / "gtest"), set(), 0
    for record in map(json.loads, filter(None, log)):
        program = pathlib.Path(record["command"][0]).name
        ok, passed, failed, skipped = record["result"] in ("OK", "EXPECTEDFAIL"), 0, 0, []
        paths = of_program(found, program)
        for path in set(paths) - counted:
            p, f, s = cases(json.loads(path.read_text(encoding="utf-8")))
            passed, failed, skipped = passed + p, failed + f, skipped + s
        counted |= set(paths)
        if record["result"] == "SKIP":
            skipped.append(record["name"])
        elif not ok:
            failed = max(failed, 1)
        elif not paths:
            passed = 1
        for name in skipped:
            print(f"skipped: {name}", file=sys.stderr)
        total += passed + failed
        print(failed, passed, record["name"].replace(" ", ""))
    return 0 if total else 1


if __name__ == "__main__":
    sys.exit(main())
