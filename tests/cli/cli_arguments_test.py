"""Good and bad command lines: exit status, what is told, and on which stream."""
import os

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
        for option in ["model", "prompt-file", "ask", "ask-file", "policy", "tokens", "budget", "rank", "chunk", "window",
                       "keys", "key-codec", "value-codec", "digest", "digest-codec", "unselected", "max-missed-mass",
                       "dense-layers", "memory-limit", "dtype", "device", "threads", "max-new", "temperature", "top-k",
                       "top-p", "min-p", "seed", "json", "raw", "progress"]:
            self.assertIn(f"--{option}".encode(), out)

    def test_a_device_that_is_not_there_is_refused_with_the_reason(self):
        os.environ["SHADOWKV_CUDA"] = "0"
        self.refused(*BASE, "--ask", "x", "--device=-1", names="--device")
        self.failed(*BASE, "--device", "1", "--ask", "x", names="device is 1; 0 to 0 are there")
        self.failed(*BASE, "--device", "1", "--ask", "x", names="SHADOWKV_CUDA=0")

    def test_version_is_that_of_the_library(self):
        out, _ = run("--version")
        self.assertRegex(out.decode(), r"^shadowkv \d+\.\d+\.\d+")

    def test_bad_arguments_are_named_on_stderr(self):
        ask = [*BASE, "--ask", "x"]
        self.refused(*ask, "--nonsense", names="nonsense")
        self.refused(*ask, "--window", "-1", names="--window")
        for share in ["-0.1", "1.1", "x"]:
            self.refused(*ask, f"--max-missed-mass={share}", names="--max-missed-mass")
        for layers in ["", ",", "0,", ",0", "0,,1", "-1", "x", "0 1", "0,none", "99999999999"]:
            self.refused(*ask, f"--dense-layers={layers}", names="--dense-layers")
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

    def test_a_wrong_word_is_refused_with_the_right_ones(self):
        words = {"--policy": ["full", "published", "shadowkv", "quest", "streaming"],
                 "--keys": ["lowrank", "exact"],
                 "--key-codec": ["raw", "int8", "int4"],
                 "--value-codec": ["raw", "int8", "int4"],
                 "--digest": ["mean", "mean-variance", "box", "keys-2bit"],
                 "--digest-codec": ["raw", "int8"],
                 "--unselected": ["dropped", "estimated"],
                 "--dtype": ["bf16", "f32"],
                 "--chunk": ["4", "8", "16", "32"]}
        for option, right in words.items():
            for wrong in ["magic", right[0] + "x", "", "7"]:
                out, err = run(*BASE, "--ask", "x", f"{option}={wrong}", expect=2)
                self.assertEqual(out, b"")
                self.assertIn(option.encode(), err)
                self.assertIn(("{" + ",".join(right) + "}").encode(), err)

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
        for arguments, names in [(["--keys", "lowrank", "--key-codec", "int4"], "kv.key_codec"),
                                 (["--digest", "keys-2bit", "--digest-codec", "int8"], "kv.digest_codec"),
                                 (["--digest", "box", "--unselected", "estimated"], "kv.unselected"),
                                 (["--policy", "quest", "--max-missed-mass", "0.1"], "kv.max_missed_mass"),
                                 (["--max-missed-mass", "1"], "kv.max_missed_mass"),
                                 (["--max-missed-mass", "nan"], "kv.max_missed_mass"),
                                 (["--dense-layers", "0,3"], "kv.dense_layers"),
                                 (["--dense-layers", "1,1"], "kv.dense_layers"),
                                 (["--chunk", "32", "--budget", "16"], "kv.budget_tokens")]:
            self.failed(*BASE, "--ask", "x", *arguments, names=names)

    def test_a_memory_limit_below_the_need_refuses_the_text_before_it_is_read(self):
        need = self.failed
        need(*BASE, "--ask", "x", "--prompt-file", self.text, "--memory-limit", "100K", names="--memory-limit is 102400")

    def test_demo_text_needs_room_and_its_language(self):
        text = ["--text", self.folder / "t", "--ask-file", self.folder / "q"]
        self.failed("demo-text", "--model", MODEL, "--tokens", 300, *text, names="--tokens is too small")
        self.refused("demo-text", "--model", MODEL, names="--text")
        self.failed("demo-text", "--model", self.folder, *text, names=str(self.folder))
        self.refused("demo-report", names="runs")
        for wrong in ["one", "one=", "=one", "asked=one", "rank=one"]:
            self.refused("demo-report", wrong, names=wrong)
        self.refused("demo-report", "a=one", "b=two", "a=three", names="two are named a")


cli_common.main()
