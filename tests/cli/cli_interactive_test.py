"""The prompt: piped commands, and a terminal with line editing, history and Ctrl-C."""
import os
import pty
import re
import select
import signal
import time

import cli_common
from cli_common import BASE, MODEL, SHELL, run


class Terminal:
    """The shell on a terminal of its own."""

    def __init__(self, *arguments):
        self.seen = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "vt100"
            os.environ["HOME"] = "/nonexistent"
            os.execv(SHELL, [SHELL, "--threads", "1", *map(str, arguments)])

    def send(self, text):
        os.write(self.fd, text if isinstance(text, bytes) else text.encode())

    def wait(self, pattern, timeout=120):
        """Reads until the pattern is seen after what was waited for before; returns all up to its end."""
        end = time.monotonic() + timeout
        while True:
            found = re.search(pattern, self.seen, re.S)
            if found:
                text, self.seen = self.seen[:found.end()], self.seen[found.end():]
                return text
            if time.monotonic() > end:
                raise AssertionError(f"{pattern!r} did not come; seen: {self.seen[-2000:]!r}")
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    data = os.read(self.fd, 65536)
                except OSError:
                    data = b""
                if not data:
                    raise AssertionError(f"ended before {pattern!r}; seen: {self.seen[-2000:]!r}")
                self.seen += data

    def exit_status(self, send="", timeout=60):
        """Waits for the end, reading what is left. `send` is typed again and again: what comes between the prompt and
        the editor's terminal mode may get lost."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            if select.select([self.fd], [], [], 0.5)[0]:
                try:
                    os.read(self.fd, 65536)
                except OSError:
                    time.sleep(0.05)
            elif send:
                self.send(send)
        raise AssertionError("did not end")

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


PROMPT = rb"shadowkv> "


class Piped(cli_common.ShellTest):
    def session(self, *lines, arguments=()):
        return run("--threads", 1, *arguments, stdin="\n".join(lines) + "\n")

    def test_commands_and_questions(self):
        question = self.asked()[0]["ask"].strip().split("?")[0].removeprefix("Question: ") + "?"
        out, err = self.session(f"load {MODEL}", f"read {self.text}", "policy full", question, "ask " + question, "stats",
                                "memory", "quit", "never reached")
        text = out.decode()
        self.assertEqual(err, b"")
        self.assertIn("LlamaForCausalLM", text)
        self.assertRegex(text, rf"{self.tokens - 17} tokens in")
        self.assertIn("policy full", text)
        self.assertIn("asked 2", text)
        self.assertRegex(text, r"exact kv +[1-9]")
        # The same question gives the same answer by both spellings.
        lines = text.splitlines()
        self.assertEqual(lines[3], lines[4])

    def test_failures_keep_the_session(self):
        out, err = self.session("ask x", "stats", "load /nowhere", f"load {MODEL}", "read /nowhere", "policy magic", "help")
        self.assertEqual(len(err.splitlines()), 5)
        self.assertIn(b"load DIR", err)
        self.assertIn(b"/nowhere", err)
        self.assertIn(b"Ctrl-C", out)

    def test_end_of_input_ends_the_program(self):
        run("--threads", 1, stdin="")


class LongText(cli_common.ShellTest):
    tokens = 5120  # long enough to be compressed

    def test_a_changed_policy_reads_the_text_again(self):
        out, _ = run(*BASE, "--prompt-file", self.text, "--policy", "full", stdin="stats\npolicy published\nstats\n")
        text = out.decode()
        self.assertLess(text.index("policy full"), text.index("policy published"))
        self.assertRegex(text, r"policy published: .*\n\d+ tokens: [1-9]\d* compressed")

    def test_policy_and_stats_say_what_is_in_force(self):
        question = self.asked()[0]["ask"].replace("\n", " ").strip()
        commands = "\n".join(["policy", question, "stats", "policy quest", "policy streaming", question, "stats"]) + "\n"
        out, err = run(*BASE, "--prompt-file", self.text, "--value-codec", "int4", "--digest", "mean-variance",
                       "--dense-layers", "1", "--budget", 64, "--max-new", 6, stdin=commands)
        self.assertEqual(err, b"")
        text = out.decode()
        mine = "keys lowrank, values int4, digest mean-variance, unselected dropped, chunk 8, window 32, dense layers 1"
        self.assertEqual(text.count(f"policy shadowkv: {mine}\n"), 2)
        self.assertNotIn("missed mass", text)
        # A preset below the options given.
        self.assertIn("policy quest: keys exact, values int4, digest mean-variance, unselected dropped, chunk 16", text)
        self.assertEqual(text.count("policy streaming: 4 sinks, window 512, exact\n"), 2)
        self.assertRegex(text.split("policy streaming")[-1], r"\b[1-9]\d* dropped")

    def test_stats_tell_the_guard_s_figures(self):
        out, _ = run(*BASE, "--prompt-file", self.text, "--max-missed-mass", 0.05, "--max-new", 4, stdin="x\nstats\n")
        self.assertIn(b", missed mass at most 0.05\n", out)
        self.assertRegex(out.decode(), r"accuracy guard: estimated missed mass 0\.\d{4}, mean of [1-9]\d* calls")

    def test_a_refused_policy_leaves_the_one_in_force(self):
        commands = "stats\npolicy shadowkv\npolicy\nstats\n"
        out, err = run(*BASE, "--prompt-file", self.text, "--policy", "quest", "--key-codec", "int4", stdin=commands)
        self.assertIn(b"kv.key_codec", err)
        self.assertEqual(len(err.splitlines()), 1)
        text = out.decode()
        self.assertNotIn("policy shadowkv", text)
        self.assertEqual(text.count("policy quest: keys exact int4"), 3)
        first, second = re.findall(r"\d+ tokens: \d+ compressed, .*", text)
        self.assertEqual(first, second)


class OnTerminal(cli_common.ShellTest):
    def start(self, *arguments):
        terminal = Terminal(*arguments)
        self.addCleanup(lambda: terminal.kill() if terminal.pid else None)
        terminal.wait(PROMPT)
        return terminal

    def finish(self, terminal):
        terminal.send("quit\r")
        status, terminal.pid = terminal.exit_status(), 0
        self.assertEqual(status, 0)

    def test_lines_are_edited_and_remembered(self):
        terminal = self.start()
        terminal.send("helx\x7fp\r")  # backspace
        terminal.wait(rb"load DIR")
        terminal.wait(PROMPT)
        terminal.send("\x1b[A\r")  # the line before
        terminal.wait(rb"load DIR")
        terminal.wait(PROMPT)
        terminal.send("p\x01hel\r")  # to the beginning of the line
        terminal.wait(rb"load DIR")
        terminal.wait(PROMPT)
        self.finish(terminal)

    def test_interrupt_at_the_prompt_drops_the_line(self):
        terminal = self.start()
        terminal.send("this is not sent")
        terminal.wait(rb"not sent")
        terminal.send("\x03")
        terminal.wait(PROMPT)
        terminal.send("help\r")
        terminal.wait(rb"load DIR")
        terminal.wait(PROMPT)
        self.finish(terminal)

    def test_interrupt_stops_an_answer_and_keeps_the_session(self):
        terminal = self.start("--model", MODEL, "--max-new", 100000, "--stop", "never met", "--temperature", 1)
        terminal.send("Once upon a time\r")
        terminal.wait(rb"time\r\n.{200}")  # well into the answer
        terminal.send("\x03")
        terminal.wait(rb"\[interrupted\]")
        terminal.wait(PROMPT)
        terminal.send("stats\r")
        terminal.wait(rb"asked 1")
        terminal.wait(PROMPT)
        self.finish(terminal)

    def test_interrupt_stops_reading_a_text(self):
        text = self.folder / "long.txt"
        text.write_text(self.text.read_text() * 40)
        terminal = self.start("--model", MODEL)
        terminal.send(f"read {text}\r")
        terminal.wait(rb"reading \[")
        terminal.send("\x03")
        terminal.wait(rb"interrupted: no text is read")
        terminal.wait(PROMPT)
        terminal.send(f"read {self.text}\r")
        terminal.wait(rb"tokens in")
        terminal.wait(PROMPT)
        self.finish(terminal)

    def test_control_d_quits(self):
        terminal = self.start()
        status, terminal.pid = terminal.exit_status(send="\x04"), 0
        self.assertEqual(status, 0)


cli_common.main()
