"""What the shell's tests share: the program under test, the demo model, and texts made by the program itself."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SHELL = os.environ["SKV_SHELL"]
MODEL = os.environ["SKV_MODEL"]
BASE = ["--model", MODEL, "--threads", "1"]


def run(*arguments, expect=0, stdin="", timeout=240):
    """(stdout, stderr) as bytes; the exit status must be `expect`."""
    done = subprocess.run([SHELL, *map(str, arguments)], input=stdin.encode(), capture_output=True, timeout=timeout)
    if done.returncode != expect:
        raise AssertionError(f"{arguments}: exit status {done.returncode}, not {expect}\n{done.stdout}\n{done.stderr}")
    return done.stdout, done.stderr


class ShellTest(unittest.TestCase):
    """Has a scratch folder with text.txt and questions.jsonl of `tokens` tokens."""
    tokens = 1280
    questions = 8
    facts = 0

    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.scratch.name)
        cls.text, cls.ask_file = cls.folder / "text.txt", cls.folder / "questions.jsonl"
        run("demo-text", "--model", MODEL, "--tokens", cls.tokens, "--questions", cls.questions, "--seed", 5,
            "--facts", cls.facts, "--text", cls.text, "--ask-file", cls.ask_file)

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def asked(self):
        return [json.loads(line) for line in self.ask_file.read_text().splitlines()]

    def demo(self, *arguments, ask_file=None):
        """One --json run over the demo text."""
        out, err = run(*BASE, "--prompt-file", self.text, "--ask-file", ask_file or self.ask_file, "--template", "{}",
                       "--max-new", 6, "--json", *arguments)
        self.assertEqual(err, b"")
        self.assertEqual(out.count(b"\n"), 1)
        return json.loads(out)


def main():
    unittest.main(argv=[sys.argv[0]])
