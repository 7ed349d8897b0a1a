#!/usr/bin/env python3
"""Every exported function has a complete doc block, and every public struct has one.

Usage: docs_lint.py REPOSITORY. A block has a summary; @param for each parameter, in the order of the declaration; then
@returns, @on_failure, @threads, @blocks, @memory, @since and @source, each with text.
"""
import pathlib
import re
import sys

TAGS = ["returns", "on_failure", "threads", "blocks", "memory", "since", "source"]
FUNCTION = re.compile(r"(?P<doc>/\*\*(?:[^*]|\*(?!/))*\*/)?\s*SKV_API\s+(?P<head>[^;{]*?)\b(?P<name>skv_\w+)\s*"
                      r"\((?P<params>[^;]*)\)\s*;")
STRUCT = re.compile(r"(?P<doc>/\*\*(?:[^*]|\*(?!/))*\*/)?\s*typedef struct (?P<name>skv_\w+) \{")


def body_of(doc):
    return "\n".join(line.strip().removeprefix("*").strip() for line in doc[3:-2].splitlines()).strip()


def tags_of(body):
    """[(tag, text)], and the summary before the first tag."""
    parts = re.split(r"(?<![\w`])@(\w+)", body)
    return parts[0].strip(), [(parts[i], parts[i + 1].strip()) for i in range(1, len(parts), 2)]


def parameters(text):
    text = " ".join(text.split())
    if text == "void":
        return []
    return [re.search(r"(\w+)(?:\[\])?$", part.strip()).group(1) for part in text.split(",")]


def check_function(match):
    name, doc = match["name"], match["doc"]
    if not doc:
        return [f"{name}: no doc block"]
    found = []
    summary, tags = tags_of(body_of(doc))
    if not summary:
        found.append(f"{name}: no summary")
    documented = [text.split()[0] for tag, text in tags if tag == "param" and text]
    declared = parameters(match["params"])
    if documented != declared:
        found.append(f"{name}: @param {documented}, declared {declared}")
    found += [f"{name}: @param {t.split()[0]} says nothing" for tag, t in tags if tag == "param" and len(t.split()) < 2]
    order = [tag for tag, text in tags if tag != "param"]
    for tag in TAGS:
        if not any(t == tag and text for t, text in tags):
            found.append(f"{name}: no @{tag}")
    if sorted(order, key=TAGS.index if set(order) <= set(TAGS) else None) != order:
        found.append(f"{name}: tags are {order}; the order is {TAGS}")
    returns = " ".join(text for tag, text in tags if tag == "returns")
    if match["head"].split()[0] == "skv_status" and "SKV_OK" not in returns:
        found.append(f"{name}: @returns does not name SKV_OK")
    return found


def check_text(text):
    found, n = [], 0
    for match in FUNCTION.finditer(text):
        n += 1
        found += check_function(match)
    found += [f"{m['name']}: no doc block" for m in STRUCT.finditer(text) if not m["doc"]]
    if n != len(re.findall(r"^SKV_API ", text, re.M)):
        found.append("a declaration with SKV_API was not understood")
    return found, n


BAD = """
/**
 * Does it.
 *
 * @param b  in, second.
 * @param a  in, first.
 * @returns nothing in particular.
 * @threads any. @blocks no. @memory none. @since 0.1 @source none (API)
 */
SKV_API skv_status skv_bad(int a, int b);
SKV_API void skv_bare(void);
typedef struct skv_naked {
"""


def self_test():
    found, n = check_text(BAD)
    wanted = ["skv_bad: @param", "skv_bad: no @on_failure", "skv_bad: @returns", "skv_bare: no doc", "skv_naked: no doc"]
    missed = [w for w in wanted if not any(f.startswith(w) for f in found)]
    return [f"self-test: not found: {missed}"] if missed or n != 2 else []


def main():
    found, functions = self_test(), 0
    for header in sorted(pathlib.Path(sys.argv[1], "include/shadowkv").glob("*.h")):
        problems, n = check_text(header.read_text(encoding="utf-8"))
        found += [f"{header.name}: {p}" for p in problems]
        functions += n
    if functions == 0:
        found.append("no exported function found")
    print("\n".join(found) if found else f"{functions} functions documented")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
