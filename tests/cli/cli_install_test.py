"""The installed library serves a C program found through pkg-config alone: examples/01_minimal.c."""
import os
import pathlib
import subprocess
import tempfile
import unittest

MODEL, SOURCE, BUILD = os.environ["SKV_MODEL"], os.environ["SKV_SOURCE"], os.environ["SKV_BUILD"]
TEXT = "The code of bamor is 48213.\nQuestion: what is the code of bamor? Answer: The code of bamor is"


def call(*command, **more):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=240, **more).stdout


class Install(unittest.TestCase):
    def test_minimal_builds_and_answers(self):
        with tempfile.TemporaryDirectory() as folder:
            call("meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", folder)
            root = pathlib.Path(folder)
            config = next(root.rglob("shadowkv.pc"))
            prefix = config.read_text().split("prefix=")[1].splitlines()[0]
            environment = {**os.environ, "PKG_CONFIG_PATH": str(config.parent), "PKG_CONFIG_SYSROOT_DIR": folder}
            flags = call("pkg-config", "--cflags", "--libs", "shadowkv", env=environment).split()
            self.assertTrue(any(flag.startswith("-L") for flag in flags), flags)
            # The warnings of a careful C99 host; the sanitizers of this build, if any, come with the library.
            program = root / "minimal"
            call("cc", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"{SOURCE}/examples/01_minimal.c", *flags,
                 "-o", str(program))
            libraries = next(root.rglob("libshadowkv.so.0")).parent
            out = call(str(program), MODEL, TEXT, "6", env={**os.environ, "LD_LIBRARY_PATH": str(libraries)})
            self.assertEqual(out, call(os.environ["SKV_EXAMPLE_MINIMAL"], MODEL, TEXT, "6"))
            self.assertRegex(out, r"^ \d{5}\n$")
            self.assertTrue((root / prefix.lstrip("/") / "bin" / "shadowkv").exists())


unittest.main()
