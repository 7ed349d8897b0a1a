"""Good and bad command lines: exit status, what is told, and on which stream."""
import cli_common
from cli_common import BASE, MODEL, run


class Arguments(cli_common.ShellTest):
    def refused(self, *arguments, names):
        out, err = run(*arguments, expect=2)
        self.assertEqual(out, b"")
        self.assertIn(names.encode(), err)

    def failed(self, *arguments, names):
        out, err = run(*arguments, expect=1)
        self.assertEqual(out, b"")
        self.assertTrue(err.startswith(b"shadowkv: "), err)
        self.assertIn(names.encode(), err)

    def test_help_lists_every_option(self):
        out, err = run("--help")
        self.assertEqual(err, b"")
        for option in ["model", "prompt-file", "ask", "ask-file", "policy", "tokens", "budget", "rank", "chunk", "keys",
                       "memory-limit", "dtype", "threads", "max-new", "temperature", "top-k", "top-p", "min-p", "seed",
                       "json", "raw", "progress"]:
            self.assertIn(f"--{option}".encode(), out)

    def test_version_is_that_of_the_library(self):
        out, _ = run("--version")
        self.assertRegex(out.decode(), r"^shadowkv \d+\.\d+\.\d+")

    def test_bad_arguments_are_named_on_stderr(self):
        ask = [*BASE, "--ask", "x"]
        self.refused(*ask, "--nonsense", names="nonsense")
        self.refused(*ask, "--policy", "magic", names="--policy")
        self.refused(*ask, "--keys", "magic", names="--keys")
        self.refused(*ask, "--dtype", "f8", names="--dtype")
        self.refused(*ask, "--chunk", "7", names="--chunk")
        self.refused(*ask, "--rank", "0", names="--rank")
        self.refused(*ask, "--tokens", "0", names="--tokens")
        self.refused(*ask, "--max-new", "0", names="--max-new")
        self.refused(*ask, "--temperature", "-1", names="--temperature")
        self.refused(*ask, "--top-p", "1.5", names="--top-p")
        for budget in ["", "x", "-1", "0", "1.5", "101%", "%", "nan%"]:
            self.refused(*ask, f"--budget={budget}", names="--budget")
        for limit in ["", "x", "1X", "-1G", "inf", "9E9T", "1e30"]:
            self.refused(*ask, f"--memory-limit={limit}", names="--memory-limit")
        self.refused(*ask, "--template", "no place", names="--template")
        self.refused("--ask", "x", names="--model")
        self.refused(*BASE, "--json", names="--json")

    def test_what_cannot_be_opened_is_a_failure_with_its_name(self):
        self.failed("--model", "/nowhere/model", "--ask", "x", names="/nowhere/model")
        self.failed(*BASE, "--ask", "x", "--prompt-file", "/nowhere/text", names="/nowhere/text")
        self.failed(*BASE, "--ask", "x", "--prompt-file", self.folder, names=str(self.folder))
        self.failed(*BASE, "--ask-file", "/nowhere/questions", names="/nowhere/questions")

    def test_damaged_question_files_are_named_by_line(self):
        bad = self.folder / "bad.jsonl"
        for text, names in [("{\"ask\": 1}\n", ":1"), ("plain\n{\"ask\": \"x\"\n", ":2"), ("\n\n", "no questions"),
                            ("{\"ask\": \"x\", \"expect\": 5}\n", ":1")]:
            bad.write_text(text)
            self.failed(*BASE, "--ask-file", bad, names=names)

    def test_values_that_the_library_refuses_are_told_in_its_words(self):
        self.failed(*BASE, "--ask", "x", "--prompt-file", self.text, "--rank", "200", names="rank")

    def test_a_memory_limit_below_the_need_refuses_the_text_before_it_is_read(self):
        need = self.failed
        need(*BASE, "--ask", "x", "--prompt-file", self.text, "--memory-limit", "100K", names="--memory-limit is 102400")

    def test_demo_text_needs_room_and_its_language(self):
        text = ["--text", self.folder / "t", "--ask-file", self.folder / "q"]
        self.failed("demo-text", "--model", MODEL, "--tokens", 300, *text, names="--tokens is too small")
        self.refused("demo-text", "--model", MODEL, names="--text")
        self.failed("demo-text", "--model", self.folder, *text, names=str(self.folder))
        self.refused("demo-report", "one", names="files")


cli_common.main()
