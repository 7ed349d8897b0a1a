"""How keys and values are kept: every option shows in the figures of a run, presets give way to options only."""
import cli_common


class Cache(cli_common.ShellTest):
    tokens = 5120  # long enough to be compressed
    questions = 3

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.runs = {}

    def figures(self, *arguments):
        """Runs with the same arguments are made once."""
        if arguments not in self.runs:
            self.runs[arguments] = self.demo(*arguments)
        return self.runs[arguments]

    def shows(self, result, **expected):
        self.assertEqual({key: result[key] for key in expected}, expected)

    def smaller(self, figure, *runs):
        """The figure falls from each run to the next by 5 % at least."""
        values = [self.figures(*run)[figure] for run in runs]
        for more, less in zip(values, values[1:]):
            self.assertLess(less, 0.95 * more, (figure, runs))

    def test_defaults_are_those_of_the_library(self):
        self.shows(self.figures(), policy="shadowkv", keys="lowrank", key_codec="raw", value_codec="raw", digest="mean",
                   digest_codec="raw", unselected="dropped", chunk=8, window=32, dense_layers=[], dtype="bf16")
        self.assertNotIn("missed_mass", self.figures())
        self.assertNotIn("sinks", self.figures())

    def test_full_keeps_everything_exact_whatever_else_is_said(self):
        result = self.figures("--policy", "full", "--value-codec", "int4", "--digest", "box")
        self.shows(result, keys="exact", key_codec="raw", value_codec="raw", rank=0)
        for absent in ["digest", "digest_codec", "unselected", "chunk", "window", "dense_layers", "sinks", "missed_mass"]:
            self.assertNotIn(absent, result)
        self.assertEqual(result["kv_bytes_total"], self.figures("--policy", "full")["kv_bytes_total"])

    def test_value_codecs_shrink_the_slow_tier(self):
        for codec in ["raw", "int8", "int4"]:
            self.shows(self.figures("--value-codec", codec), value_codec=codec, key_codec="raw")
        self.smaller("kv_bytes_slow", *[("--value-codec", codec) for codec in ["raw", "int8", "int4"]])
        self.smaller("kv_bytes_read_per_token", ("--value-codec", "raw"), ("--value-codec", "int4"))

    def test_exact_keys_shrink_by_their_codec(self):
        runs = [("--keys", "exact", "--key-codec", codec) for codec in ["raw", "int8", "int4"]]
        for run in runs:
            self.shows(self.figures(*run), keys="exact", key_codec=run[-1], rank=0, value_codec="raw")
        self.smaller("kv_bytes_slow", *runs)

    def test_low_rank_keys_and_means_shrink_in_the_fast_tier(self):
        self.shows(self.figures("--key-codec", "int8"), keys="lowrank", key_codec="int8", rank=40)
        self.shows(self.figures("--digest-codec", "int8"), digest="mean", digest_codec="int8")
        self.smaller("kv_bytes_fast", (), ("--key-codec", "int8"))
        self.smaller("kv_bytes_fast", (), ("--digest-codec", "int8"))

    def test_digests_take_their_bytes(self):
        for digest in ["mean", "mean-variance", "box", "keys-2bit"]:
            self.shows(self.figures("--digest", digest), digest=digest, digest_codec="raw")
        self.smaller("kv_bytes_fast", ("--digest", "box"), ("--digest", "mean"))
        fast = {digest: self.figures("--digest", digest)["kv_bytes_fast"] for digest in ["mean", "mean-variance"]}
        self.assertGreater(fast["mean-variance"], fast["mean"])
        read = {digest: self.figures("--digest", digest)["kv_bytes_read_per_token"] for digest in ["mean", "keys-2bit"]}
        self.assertNotEqual(read["mean"], read["keys-2bit"])

    def test_estimated_chunks_keep_mean_values(self):
        self.shows(self.figures("--unselected", "estimated"), unselected="estimated")
        self.smaller("kv_bytes_fast", ("--unselected", "estimated"), ())

    def test_the_guard_selects_on(self):
        loose, tight = self.figures("--max-missed-mass", "0.9"), self.figures("--max-missed-mass", "0.001")
        self.shows(tight, max_missed_mass=0.001)
        for result in [loose, tight]:
            self.assertTrue(0 <= result["missed_mass"] <= 1)
            self.assertTrue(0 <= result["guard_capped"] <= 1)
        self.assertLessEqual(loose["missed_mass"], 0.9)
        self.assertLess(tight["missed_mass"], loose["missed_mass"])
        self.smaller("attended_tokens_mean", ("--max-missed-mass", "0.001"), ("--max-missed-mass", "0.9"))
        self.assertNotIn("missed_mass", self.figures("--max-missed-mass", "0"))

    def test_dense_layers_attend_to_everything(self):
        full = self.figures("--policy", "full")["attended_tokens_mean"]
        sparse = self.figures()["attended_tokens_mean"]
        result = self.figures("--dense-layers", "0,2")
        self.shows(result, dense_layers=[0, 2])
        self.assertAlmostEqual(result["attended_tokens_mean"], (2 * full + sparse) / 3, delta=20)

    def test_window_and_chunk_are_taken(self):
        self.shows(self.figures("--window", "512"), window=512)
        self.smaller("attended_tokens_mean", ("--window", "512"), ())
        self.shows(self.figures("--chunk", "32"), chunk=32)
        self.smaller("kv_bytes_read_per_token", ("--chunk", "4"), (), ("--chunk", "32"))

    def test_quest_is_a_preset(self):
        result = self.figures("--policy", "quest")
        self.shows(result, policy="quest", keys="exact", digest="box", chunk=16, window=0, dense_layers=[0, 1], rank=0)
        full = self.figures("--policy", "full")["attended_tokens_mean"]
        self.assertAlmostEqual(result["attended_tokens_mean"], (2 * full + 1024) / 3, delta=30)

    def test_options_go_over_a_preset_and_leave_the_rest(self):
        result = self.figures("--policy", "quest", "--dense-layers", "none", "--value-codec", "int8", "--budget", "10%",
                              "--chunk", "32")
        self.shows(result, digest="box", keys="exact", value_codec="int8", window=0, dense_layers=[], chunk=32)
        self.assertLess(result["attended_tokens_mean"], self.tokens / 5)
        self.smaller("kv_bytes_total", ("--policy", "quest", "--dense-layers", "none"),
                     ("--policy", "quest", "--dense-layers", "none", "--value-codec", "int8"))

    def test_streaming_forgets(self):
        result = self.figures("--policy", "streaming")
        self.shows(result, policy="streaming", keys="exact", sinks=4, window=512)
        self.assertNotIn("digest", result)
        self.assertGreater(result["dropped_tokens"], self.tokens / 2)
        self.assertAlmostEqual(result["attended_tokens_mean"], 4 + 512, delta=20)
        short = self.figures("--policy", "streaming", "--window", "128")
        self.shows(short, window=128)
        self.assertAlmostEqual(short["attended_tokens_mean"], 4 + 128, delta=20)
        self.smaller("kv_bytes_total", ("--policy", "full",), ("--policy", "streaming"))


cli_common.main()
