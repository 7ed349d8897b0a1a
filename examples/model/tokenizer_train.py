"""Byte-level BPE of the demo language: training (`python tokenizer_train.py` rewrites tokenizer.json) and encoding."""
import collections
import json
import random
import re

import language as lang

SIZE, BOS, EOS, PAD = 1536, 1533, 1534, 1535
# The pre-split, in the dialect of tokenizer.json and (for this ASCII language, equal in effect) of Python's re.
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLIT_RE = re.compile(r"[^\r\n\w]?[^\W\d_]+|\d| ?[^\s\w]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_alphabet():
    """GPT-2's printable stand-ins for the 256 bytes."""
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    table = {b: chr(b) for b in plain}
    return table | {b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in table)}


BYTES = byte_alphabet()


def split(text):
    return ["".join(BYTES[b] for b in word.encode()) for word in SPLIT_RE.findall(text)]


def train(size=SIZE):
    r = random.Random(0)
    count = collections.Counter()
    for _ in range(30000):
        count.update(split(" " + lang.sentence(r)))
    for name in lang.NAMES:
        count["\u0120" + name] += 2000
    for attribute in lang.ATTRIBUTES:
        count["\u0120" + attribute] += 5000
    for word in ["Question", ":", " what", " is", " the", " Answer", " of", " The", "?", ".", "The"]:
        count.update({piece: 5000 for piece in split(word)})
    words = {word: list(word) for word in count}
    vocab, merges = [BYTES[b] for b in range(256)], []
    while len(vocab) < size - 3:
        pairs = collections.Counter()
        for word, symbols in words.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += count[word]
        if not pairs:
            break
        (a, b), _ = pairs.most_common(1)[0]
        merges.append((a, b))
        vocab.append(a + b)
        for word, symbols in words.items():
            i, merged = 0, []
            while i < len(symbols):
                if symbols[i:i + 2] == [a, b]:
                    merged.append(a + b)
                    i += 2
                else:
                    merged.append(symbols[i])
                    i += 1
            words[word] = merged
    return list(dict.fromkeys(vocab)), merges


def tokenizer_json(vocab, merges):
    added = [{"id": i, "content": c, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, c in ((BOS, "<|bos|>"), (EOS, "<|eos|>"), (PAD, "<|pad|>"))]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}]},
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                      "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
                      "vocab": {t: i for i, t in enumerate(vocab)}, "merges": [f"{a} {b}" for a, b in merges]}}


class Tokenizer:
    def __init__(self, path="tokenizer.json"):
        model = json.load(open(path, encoding="utf-8"))["model"]
        self.ids = model["vocab"]
        self.rank = {tuple(m.split(" ")): i for i, m in enumerate(model["merges"])}
        self.cache = {}

    def word(self, word):
        if word not in self.cache:
            symbols = list(word)
            while len(symbols) > 1:
                k = min(range(len(symbols) - 1), key=lambda i: self.rank.get((symbols[i], symbols[i + 1]), 1 << 30))
                if (symbols[k], symbols[k + 1]) not in self.rank:
                    break
                symbols[k:k + 2] = [symbols[k] + symbols[k + 1]]
            self.cache[word] = [self.ids[s] for s in symbols]
        return self.cache[word]

    def encode(self, text):
        return [i for word in split(text) for i in self.word(word)]


if __name__ == "__main__":
    with open("tokenizer.json", "w", encoding="utf-8") as f:
        json.dump(tokenizer_json(*train()), f, ensure_ascii=False)
