"""The example programs do what they say, on the demo model and with wrong arguments."""
import os
import re
import subprocess
import unittest

import cli_common

MODEL = os.environ["SKV_MODEL"]


def run(name, *arguments, expect=0):
    done = subprocess.run([os.environ["SKV_EXAMPLE_" + name.upper()], *map(str, arguments)], capture_output=True, timeout=120)
    if done.returncode != expect:
        raise AssertionError(f"{name}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout.decode(), done.stderr.decode()


class Examples(cli_common.ShellTest):
    tokens = 512
    questions = 3
    facts = 8

    def setUp(self):
        self.document = self.text.read_text()
        self.asks = [question["ask"] for question in self.asked()]
        self.values = [question["expect"] for question in self.asked()]
        # What the shell answers is checked in its own tests; an example must say the same, and mostly be right.
        self.answers = [q["answer"] for q in self.demo("--policy", "full")["questions"]]
        self.assertGreaterEqual(sum(a == " " + v for a, v in zip(self.answers, self.values)), 2)

    def test_minimal_answers(self):
        for ask, answer in zip(self.asks, self.answers):
            out, _ = run("minimal", MODEL, self.document + ask, 6)
            self.assertEqual(out, answer + "\n")

    def test_minimal_reports_failures(self):
        _, err = run("minimal", "/nowhere", "x", expect=1)
        self.assertRegex(err, r"^status -\d+: .*/nowhere")
        run("minimal", expect=2)

    def test_batch_gives_each_its_answer(self):
        # Of different lengths, the longest last: it is still being read while the others decode.
        prompts = [self.asks[0], self.document + self.asks[1], self.document + self.document + self.asks[2]]
        lines = run("batch", MODEL, *prompts)[0].splitlines()
        self.assertEqual([line[:2] for line in lines], ["0:", "1:", "2:"])
        self.assertTrue(lines[1][2:].startswith(self.answers[1]))
        for prompt, line in zip(prompts, lines):
            self.assertEqual(run("batch", MODEL, prompt)[0].splitlines()[0][2:], line[2:])

    def test_budget_tells_less_for_shadowkv(self):
        out, _ = run("budget", MODEL, 65536, 64)
        fast, longest = {}, {}
        for line in out.splitlines()[1:]:
            found = re.match(r"(full|shadowkv.*?) +fast +(\d+) .* limit: (\d+)$", line)
            fast[found[1]], longest[found[1]] = int(found[2]), int(found[3])
        self.assertLess(fast["shadowkv, low-rank"], fast["full"] / 2)
        self.assertGreater(longest["shadowkv, low-rank"], longest["full"])

    def test_turns_takes_replies_back(self):
        out, _ = run("turns", MODEL, self.document, *self.asks[:2])
        self.assertIn(self.asks[0] + self.answers[0] + "\n", out)
        self.assertEqual(out.count("(seed "), 4)
        # The second question comes after the first and its greedy answer, not after what was taken back.
        once, _ = run("minimal", MODEL, self.document + self.asks[0] + self.answers[0] + self.asks[1], 6)
        self.assertTrue(out.endswith(self.asks[1] + once), out)


cli_common.main()
