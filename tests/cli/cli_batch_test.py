"""Batch mode on the demo model: answers, figures, limits, streams."""
import collections
import json
import shutil

import cli_common
from cli_common import BASE, MODEL, run

FIGURES = ["right", "prefill_s", "decode_tok_s", "kv_bytes_fast", "kv_bytes_slow", "kv_bytes_total",
           "kv_bytes_read_per_token", "attended_tokens_mean", "rss_bytes"]


class Batch(cli_common.ShellTest):
    def test_the_demo_text_has_the_asked_for_length_and_its_facts(self):
        run_ = self.demo("--policy", "full")
        self.assertEqual(run_["tokens"], self.tokens)
        text = self.text.read_text()
        for question in self.asked():
            key = question["ask"].split("The ")[-1].removesuffix(" is")
            self.assertEqual(text.count(f"The {key} is {question['expect']}."), 1)

    def test_the_demo_text_follows_its_seed(self):
        texts = []
        for seed in [5, 5, 6]:
            run("demo-text", "--model", MODEL, "--tokens", self.tokens, "--questions", self.questions, "--seed", seed,
                "--text", self.folder / "t", "--ask-file", self.folder / "q")
            texts.append((self.folder / "t").read_text() + (self.folder / "q").read_text())
        self.assertEqual(texts[0], texts[1])
        self.assertNotEqual(texts[0], texts[2])

    def test_full_attention_finds_the_facts(self):
        result = self.demo("--policy", "full")
        self.assertEqual(result["asked"], self.questions)
        self.assertGreaterEqual(result["right"], self.questions - 1)
        self.assertEqual(result["right"], sum(q["right"] for q in result["questions"]))

    def test_text_output_shows_questions_and_streamed_answers(self):
        question = self.asked()[0]
        out, err = run(*BASE, "--policy", "full", "--prompt-file", self.text, "--ask", question["ask"], "--ask", "two",
                       "--template", "{}", "--max-new", 6)
        self.assertIn(f"> {question['ask']}\n {question['expect']}".encode(), out)
        self.assertIn(b"> two\n", out)
        self.assertIn(b"2 asked", err)

    def test_tokens_cuts_the_text(self):
        result = self.demo("--tokens", 100)
        self.assertEqual(result["document_tokens"], 100)

    def test_a_sampled_answer_follows_its_seed(self):
        answers = collections.defaultdict(set)
        for seed in [1, 1, 2, 3]:
            out, _ = run(*BASE, "--ask", "Once", "--temperature", 2, "--top-k", 50, "--seed", seed, "--max-new", 24,
                         "--stop", "never met", "--json")
            answers[seed].add(json.loads(out)["questions"][0]["answer"])
        self.assertEqual(len(answers[1]), 1)
        self.assertGreater(len(set.union(*answers.values())), 1)

    def test_output_is_utf8_whatever_the_model_says(self):
        # At this temperature single bytes of characters come in any order.
        for seed in range(4):
            out, _ = run(*BASE, "--ask", "x", "--temperature", 50, "--seed", seed, "--max-new", 200, "--stop", "never met")
            out.decode("utf-8")
            self.assertIn("\N{REPLACEMENT CHARACTER}", out.decode("utf-8"))

    def test_progress_is_on_stderr_and_only_when_asked_for(self):
        arguments = [*BASE, "--prompt-file", self.text, "--ask", "x", "--max-new", 1]
        out, err = run(*arguments, "--progress")
        self.assertIn(b"reading [", err)
        self.assertIn(b"100 %", err)
        self.assertNotIn(b"reading [", out)
        _, err = run(*arguments)
        self.assertNotIn(b"reading [", err)

    def test_a_memory_limit_above_the_need_is_kept(self):
        free = self.demo()
        limited = self.demo("--memory-limit", "64M")
        self.assertEqual([q["answer"] for q in free["questions"]], [q["answer"] for q in limited["questions"]])

    def test_a_chat_format_frames_document_and_question(self):
        # The demo model, made to look like one with a chat format.
        chat = self.folder / "chat"
        shutil.copytree(MODEL, chat)
        tokenizer = (chat / "tokenizer.json").read_text()
        (chat / "tokenizer.json").write_text(tokenizer.replace("<|pad|>", "<|im_start|>").replace("<|eos|>", "<|im_end|>"))
        (chat / "tokenizer_config.json").write_text('{"chat_template": "<|im_start|>{{ content }}<|im_end|>"}')
        arguments = ["--model", chat, "--threads", 1, "--prompt-file", self.text, "--max-new", 4, "--json"]
        framed = json.loads(run(*arguments, "--ask", "one?", "--ask", "two?")[0])
        turned = json.loads(run(*arguments, "--ask", "two?", "--ask", "one?")[0])
        raw = json.loads(run(*arguments, "--raw", "--template", "{}", "--ask", "one?", "--ask", "two?")[0])
        # <|im_start|>user\n instead of the begin token; \n\n before the question and the reply's opening behind it.
        self.assertGreater(framed["document_tokens"], raw["document_tokens"])
        self.assertGreaterEqual(framed["questions"][0]["question_tokens"], raw["questions"][0]["question_tokens"] + 5)
        answers = {q["ask"]: q["answer"] for q in framed["questions"]}
        self.assertEqual(answers, {q["ask"]: q["answer"] for q in turned["questions"]})


class LongBatch(cli_common.ShellTest):
    tokens = 5120  # long enough to be compressed
    questions = 4

    def test_figures_are_complete_and_consistent(self):
        full = self.demo("--policy", "full")
        sparse = self.demo("--policy", "shadowkv", "--budget", "128")
        for result in [full, sparse]:
            for figure in FIGURES:
                self.assertIsInstance(result[figure], (int, float), figure)
            self.assertEqual(result["kv_bytes_total"], result["kv_bytes_fast"] + result["kv_bytes_slow"])
            self.assertGreater(result["rss_bytes"], 1 << 20)
        self.assertGreater(full["attended_tokens_mean"], self.tokens - 20)
        self.assertLess(sparse["attended_tokens_mean"], full["attended_tokens_mean"] / 2)
        self.assertLess(sparse["kv_bytes_read_per_token"], full["kv_bytes_read_per_token"])
        self.assertEqual(sparse["budget"], 128)
        self.assertGreater(sparse["kv_bytes_slow"], 0)

    def test_a_share_of_the_context_is_a_budget(self):
        result = self.demo("--policy", "published", "--budget", "10%")
        self.assertLessEqual(abs(result["budget"] - self.tokens / 10), 8)

    def test_answers_do_not_depend_on_the_questions_before_them(self):
        lines = self.ask_file.read_text().splitlines()
        turned = self.folder / "turned.jsonl"
        turned.write_text("\n".join(reversed(lines)) + "\n")
        for policy in ["full", "shadowkv", "quest", "streaming"]:
            there = self.demo("--policy", policy)
            back = self.demo("--policy", policy, ask_file=turned)
            answers = {q["ask"]: q["answer"] for q in there["questions"]}
            self.assertEqual(answers, {q["ask"]: q["answer"] for q in back["questions"]})


cli_common.main()
