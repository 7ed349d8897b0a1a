"""The demo's report: a row for each run, one JSON line, and nothing made of damaged files."""
import json

import cli_common
from cli_common import run

FIGURES = ["right", "prefill_s", "decode_tok_s", "kv_bytes_fast", "kv_bytes_slow", "kv_bytes_total",
           "kv_bytes_read_per_token", "attended_tokens_mean", "rss_bytes", "hit_rate"]
OTHERS = {"tokens": 1280, "asked": 8, "budget": 256, "rank": 40}


class Report(cli_common.ShellTest):
    def write(self, name, text):
        file = self.folder / (name + ".json")
        file.write_text(text if isinstance(text, str) else json.dumps(text))
        return f"{name}={file}"

    def figures(self, **changes):
        return {**OTHERS, **{figure: 1.5 + i for i, figure in enumerate(FIGURES)}, **changes}

    def report(self, *runs):
        lines = run("demo-report", *runs)[0].decode().splitlines()
        return lines, json.loads(lines[-1])["demo"]

    def test_it_ends_with_one_json_line_of_all_runs(self):
        runs = {"full": ["--policy", "full"], "shadowkv": [], "shadowkv_exact_keys": ["--keys", "exact"],
                "quest": ["--policy", "quest"], "streaming": ["--policy", "streaming"]}
        results = {name: self.demo(*arguments) for name, arguments in runs.items()}
        lines, demo = self.report(*[self.write(*result) for result in results.items()])
        self.assertEqual(list(demo), ["tokens", "asked", "budget", "rank", *runs])
        for name, result in results.items():
            self.assertEqual(demo[name], {figure: result[figure] for figure in FIGURES})
        for key in OTHERS:
            self.assertEqual(demo[key], results["shadowkv"][key])
        # A title, two lines of column heads, a row for each run in their order, the JSON line.
        self.assertEqual([line.split()[0] for line in lines[3:-1]], list(runs))
        self.assertIn(f"{self.questions} questions about one text of {self.tokens} tokens", lines[0])

    def test_rows_give_units_and_shares_of_full(self):
        mib = 1 << 20
        full = self.figures(right=8, kv_bytes_fast=8 * mib, kv_bytes_slow=0, kv_bytes_total=8 * mib,
                            kv_bytes_read_per_token=4 * mib, attended_tokens_mean=1280.4, hit_rate=0)
        other = self.figures(right=7, prefill_s=0.251, decode_tok_s=123.45, kv_bytes_fast=mib, kv_bytes_slow=3 * mib,
                             kv_bytes_total=4 * mib, kv_bytes_read_per_token=mib, attended_tokens_mean=99.6, hit_rate=0.5)
        lines, _ = self.report(self.write("other", other), self.write("full", full))
        self.assertEqual(lines[3].split(), ["other", "7", "0.25", "123.5", "1.00", "3.00", "0.500", "1.000", "0.250", "100",
                                            "0.500"])
        self.assertEqual(lines[4].split()[3:], ["3.5", "8.00", "0.00", "1.000", "4.000", "1.000", "1280", "0.000"])

    def test_without_full_attention_there_are_no_shares(self):
        lines, demo = self.report(self.write("one", self.figures(rank=7)))
        self.assertEqual(lines[3].split().count("-"), 2)
        self.assertEqual(demo["rank"], 7)

    def test_damaged_files_are_refused_by_name(self):
        good = self.write("good", self.figures())
        whole = json.dumps(self.figures())
        damaged = ["", "{}", "[]", "null", whole[:-1], whole + "x", "\xff"]
        for key in [*FIGURES, *OTHERS]:
            damaged.append({k: v for k, v in self.figures().items() if k != key})
            damaged += [self.figures(**{key: value}) for value in ["1", None, [1]]]
        for text in damaged:
            out, err = run("demo-report", good, self.write("bad", text), expect=1)
            self.assertEqual(out, b"")
            self.assertIn(str(self.folder / "bad.json").encode(), err)
        run("demo-report", good, f"bad={self.folder}/nowhere", expect=1)

    def test_runs_of_different_texts_are_refused(self):
        for key in ["tokens", "asked"]:
            _, err = run("demo-report", self.write("a", self.figures()), self.write("b", self.figures(**{key: 5})), expect=1)
            self.assertIn(f"b has 5 {key}".encode(), err)


cli_common.main()
