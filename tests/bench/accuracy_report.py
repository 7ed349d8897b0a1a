#!/usr/bin/env python3
"""Rows of accuracy_bench (JSON lines on standard input) as one Markdown table, and as a picture.

Usage: accuracy_report.py [--picture FILE.svg] < rows.jsonl
The picture needs matplotlib.
"""
import json
import sys


def read_rows():
    rows = [json.loads(line) for line in sys.stdin if line.startswith("{")]
    for row in rows:
        row["trace"] = row["trace"].replace("synthetic_", "")
    if not rows:
        sys.exit("no rows on standard input")
    return rows


def ordered(rows, key):
    return list(dict.fromkeys(row[key] for row in rows))


def print_table(rows):
    traces, configs = ordered(rows, "trace"), ordered(rows, "config")
    cell = {(row["config"], row["trace"]): row for row in rows}
    print("Recall of true attention mass, and output error against exact attention (root of the sums of squares), %.")
    print("Fast and slow: bytes a token of context of the last model trace. Read: KiB a decoded token of it.")
    print()
    print("| | " + " | ".join(traces) + " | hits | fast | slow | read |")
    print("|---" * (len(traces) + 5) + "|")
    for config in configs:
        of = [cell.get((config, trace)) for trace in traces]
        parts = ["%.1f / %.1f" % (100 * r["recall"], 100 * r["error"]) if r else "" for r in of]
        r = next(r for r in of if r)
        print("| %s | %s | %.2f | %.0f | %.0f | %.0f |" % (
            config, " | ".join(parts), r["hit_rate"], r["fast_bytes_per_token"], r["slow_bytes_per_token"],
            r["bytes_read"] / 1024))


def print_codecs(rows):
    based = [row for row in rows if "base" in row]
    traces, configs = ordered(based, "trace"), ordered(based, "config")
    cell = {(row["config"], row["trace"]): row for row in based}
    print("\nOutput error that a codec adds (against the same selection with raw rows), %.\n")
    print("| | " + " | ".join(traces) + " |")
    print("|---" * (len(traces) + 1) + "|")
    for config in configs:
        parts = ["%.2f" % (100 * cell[config, t]["error_to_base"]) for t in traces]
        print("| %s | %s |" % (config, " | ".join(parts)))


def print_guard(rows):
    guarded = [row for row in rows if "guard_kept" in row]
    print("\nAccuracy guard: share of a layer's steps, and of query heads' steps, whose estimate is within [0.8, 1.25] of")
    print("the measured missed mass where that is above 0.001; share of KV heads' steps not capped, and of those the share")
    print("that misses at most 1.25 times the bound; tokens attended to per head.\n")
    print("| | trace | layers | heads | not capped | kept | tokens |")
    print("|---|---|---|---|---|---|---|")
    percent = lambda x: "%.1f %%" % (100 * x) if x >= 0 else "-"
    for r in guarded:
        print("| %s | %s | %s | %s | %s | %s | %.0f |" % (
            r["config"], r["trace"], percent(r["guard_near_layer"]), percent(r["guard_near_head"]),
            percent(r["guard_not_capped"]), percent(r["guard_kept"]), r["tokens_attended"]))


def draw(rows, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    shown = ["published", "low-rank int8", "low-rank int8, 2-bit", "low-rank int8, 2-bit, estimated", "exact, 2-bit",
             "quest", "streaming"]
    traces = ordered(rows, "trace")
    cell = {(row["config"], row["trace"]): row for row in rows}
    figure, axes = plt.subplots(2, 1, figsize=(10, 7), sharex=True)
    matplotlib.rcParams["svg.hashsalt"] = "fixed"
    for axis, field, title in ((axes[0], "recall", "recall of attention mass"), (axes[1], "error", "output error")):
        for i, config in enumerate(shown):
            values = [cell[config, t][field] for t in traces]
            axis.bar([j + (i - len(shown) / 2) * 0.11 for j in range(len(traces))], values, width=0.1, label=config)
        axis.set_ylabel(title)
        axis.set_ylim(0, 1 if field == "recall" else None)
        axis.grid(axis="y", alpha=0.3)
    axes[1].set_xticks(range(len(traces)), [trace.replace("_", "\n") for trace in traces])
    figure.suptitle("budget %.2f %% of %d tokens" % (100 * rows[0]["budget"], rows[0]["tokens"]))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncol=4, fontsize=8)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path)


def main():
    arguments = sys.argv[1:]
    if arguments and (arguments[0] != "--picture" or len(arguments) != 2):
        sys.exit(__doc__.strip())
    rows = read_rows()
    print_table(rows)
    print_codecs(rows)
    print_guard(rows)
    if arguments:
        draw(rows, arguments[1])


if __name__ == "__main__":
    main()
