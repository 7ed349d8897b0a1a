#!/usr/bin/env python3
"""Makes tests/model/fixtures: tiny random Llama checkpoints with the logits that transformers computes for them, and
tiny byte-level BPE tokenizers with the ids that the tokenizers library gives. Needs torch, transformers, tokenizers,
safetensors. Run it from anywhere; it rewrites the folder. Same seeds, same files (up to the libraries' versions)."""
import json
import math
import pathlib
import shutil

import tokenizers
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

OUT = pathlib.Path(__file__).resolve().parent / "fixtures"
DEMO = OUT.parents[2] / "examples" / "model"
VOCAB, PROMPT, STEPS = 256, 81, 64

LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}

# What each checkpoint is there for: name -> (LlamaConfig fields, storage dtype, spelling of RoPE, extras).
CHECKPOINTS = {
    "gqa_llama3_rope": dict(
        config=dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
                    intermediate_size=80, max_position_embeddings=2048, rms_norm_eps=1e-5),
        rope=dict(LLAMA3_ROPE, rope_theta=500000.0), dtype=torch.bfloat16, new_spelling=True, seed=1),
    "mha_mixed_dtypes": dict(
        config=dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=80,
                    max_position_embeddings=512),
        rope=dict(rope_type="default", rope_theta=10000.0), dtype=torch.bfloat16, f32_norms=True, seed=2),
    "mqa_tied_linear_rope": dict(
        config=dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, head_dim=32,
                    intermediate_size=64, max_position_embeddings=1024, tie_word_embeddings=True),
        rope=dict(rope_type="linear", factor=2.0, rope_theta=10000.0), dtype=torch.float32, seed=3),
    "sharded_bf16": dict(
        config=dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, head_dim=64,
                    intermediate_size=48, max_position_embeddings=4096),
        rope=dict(rope_type="default", rope_theta=1000000.0), dtype=torch.bfloat16, shard="64KB", seed=4),
    "biases_f16": dict(
        config=dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=80,
                    intermediate_size=64, max_position_embeddings=512, attention_bias=True, mlp_bias=True),
        rope=dict(rope_type="default", rope_theta=10000.0), dtype=torch.float16, seed=5),
}


def randomize(model, seed):
    """Wide weights, so that attention is sharp and every part of the model shows in the logits."""
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=gen)
            if name.endswith("norm.weight"):
                p.copy_(1 + 0.2 * noise)
            elif p.dim() == 1:
                p.copy_(0.3 * noise)
            elif "embed_tokens" in name or "lm_head" in name:
                # Tied and as wide, the embedding would make every token predict itself.
                p.copy_((0.1 if model.config.tie_word_embeddings else 0.7) * noise)
            else:
                p.copy_(noise * 1.2 / math.sqrt(p.shape[1]))


def write_config(folder, spec):
    """The saved config, with RoPE in the older or the newer spelling and without fields that only say the default."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("rope_parameters", None)
    rope = dict(spec["rope"])
    if spec.get("new_spelling"):
        config["rope_parameters"] = rope
    else:
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope["rope_type"] == "default" else {
            ("type" if k == "rope_type" else k): v for k, v in rope.items()}
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def expectations(folder, seed):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    gen = torch.Generator().manual_seed(1000 + seed)
    prompt = torch.randint(0, VOCAB, (PROMPT,), generator=gen).tolist()
    ids, greedy, rows = list(prompt), [], []
    positions = list(range(0, PROMPT, 5))
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
        rows += [logits[p] for p in positions]
        assert positions[-1] == PROMPT - 1
        last = logits[-1]
        for _ in range(STEPS):
            greedy.append(int(last.argmax()))
            ids.append(greedy[-1])
            last = model(torch.tensor([ids])).logits[0, -1]
            rows.append(last)
    # A greedy comparison needs winners that no rounding can change, and a sequence that does not repeat itself.
    top = torch.stack(rows[len(positions) - 1:-1]).topk(2, dim=-1).values
    if float(((top[:, 0] - top[:, 1]) / top[:, 0].abs()).min()) < 2e-3 or len(set(greedy)) < 8:
        return False
    (folder / "logits.f32").write_bytes(torch.stack(rows).numpy().astype("<f4").tobytes())
    (folder / "expect.json").write_text(json.dumps(
        {"vocab": VOCAB, "prompt": prompt, "positions": positions, "greedy": greedy}, separators=(",", ":")) + "\n")
    return True


def make_checkpoint(name, spec, seed):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    config = LlamaConfig(vocab_size=VOCAB, bos_token_id=1, eos_token_id=2, rope_parameters=spec["rope"],
                         **spec["config"])
    model = LlamaForCausalLM(config)
    randomize(model, seed)
    model.to(spec["dtype"]).save_pretrained(folder, max_shard_size=spec.get("shard", "1GB"))
    if spec.get("f32_norms"):
        file = folder / "model.safetensors"
        tensors = {k: v.float() if v.dim() == 1 else v for k, v in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    write_config(folder, spec)
    (folder / "generation_config.json").write_text('{"bos_token_id": 1, "eos_token_id": [2, 3]}\n')
    return expectations(folder, seed)


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
         r"\s+(?!\S)|\s+")
CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's what they've said, isn't it? "
    "We'll see; I'm sure they'd agree.",
    "def add(a, b):\n    return a + b\n\n\nif __name__ == '__main__':\n\tprint(add(1, 23456))\n",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Ça va très bien, où êtes-vous allés ?",
    "В чащах юга жил бы цитрус? Да, но фальшивый экземпляр! Η γρήγορη αλεπού πηδάει πάνω από το σκυλί.",
    "我们今天去图书馆看书。机器学习模型需要很多数据。日本語のテキストも少しあります。한국어 문장도 있습니다.",
    "हिन्दी में एक वाक्य। नमस्ते दुनिया! مرحبا بالعالم، كيف حالك اليوم؟ שלום עולם",
    "😀 😃 👍🏽 👩‍👩‍👧‍👦 🇩🇪 🚀🚀🚀 ♥️ x² + y³ = ½ ⅷ ①②③ ٠١٢٣ १२३ 2024-05-17 3.14159 1,000,000",
] * 3
TEXTS = CORPUS[:7] + [
    "", " ", "  ", "\n", "\r\n", "\t\t x", "a", " a", "a ", "  a  b   c    ", "\n\n\n  x\n \n", "   \n",
    "x   \n\n  y",
    "I'LL we'Re DON'T o'ſ 'S 's'' ' s", "12345678901234567890", "a1b22c333d4444", "  12  345",
    "x\u00a0y\u3000z\u2028w\u0085v",
    "a\u180eb \u180e c\u200bd\ufeff", "e\u0301 é ﬁ Å Ω", "ǅ ʰ ª º ϒ", "\x00\x01\x7f", "....!!!???\n\n...",
    "###\r\n\r\n--",
    "hello<|end|>world", "<|begin|><|begin|>", "a <mask> b", "a\u00a0 <mask>b", "<tool>x</tool>",
    "<tool> <toolbox> <tool",
    "<|end|", "x <strip>   y", "<|end|>\n<mask>\n", "a" * 700, "ab" * 300 + " " * 100 + "c",
    "xyz" + "\n" * 90 + "the" * 60,
    "supercalifragilisticexpialidocious" * 4, "😀" * 40, "中" * 60, "\ud7ff\ue000\U0010ffff",
]
SPECIAL = [AddedToken("<|begin|>", special=True), AddedToken("<|end|>", special=True),
           AddedToken("<mask>", special=True, lstrip=True), AddedToken("<strip>", special=True, rstrip=True)]
PLAIN = [AddedToken("<tool>", normalized=False), AddedToken("<toolbox>", normalized=True), AddedToken("</tool>")]


def train(pre_tokenizer, vocab_size):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizer
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    tok.add_special_tokens(SPECIAL)
    tok.add_tokens(PLAIN)
    return tok


def save_tokenizer(name, tok, edit=lambda root: None):
    folder = OUT / name
    folder.mkdir(parents=True)
    root = json.loads(tok.to_str())
    edit(root)
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(root, ensure_ascii=False, separators=(",", ":")) + "\n")
    save_cases(folder, file, TEXTS)  # of what is on disk, not of what was trained


def save_cases(folder, file, texts):
    folder.mkdir(parents=True, exist_ok=True)
    tok = Tokenizer.from_file(str(file))
    cases = []
    for text in texts:
        for add_special, parse_special in ((False, True), (True, True), (False, False)):
            tok.encode_special_tokens = not parse_special
            ids = tok.encode(text, add_special_tokens=add_special).ids
            if (add_special, parse_special) == (False, True) or ids != cases[-1]["ids"]:
                cases.append({"text": text, "add_special": add_special, "parse_special": parse_special, "ids": ids})
    (folder / "cases.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")


def split(regex):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def make_tokenizers():
    tok = train(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True), 900)
    tok.post_processor = processors.ByteLevel(trim_offsets=False)

    def old_merges(root):
        root["model"]["merges"] = [" ".join(m) for m in root["model"]["merges"]]
    save_tokenizer("tokenizer_gpt2", tok, old_merges)

    tok = train(split(WORDS % r"\p{N}{1,3}"), 800)
    begin = tok.token_to_id("<|begin|>")
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B",
                                      special_tokens=[("<|begin|>", begin)])])

    def ignore_merges(root):
        """Long words in the vocabulary that no chain of merges reaches: they need ignore_merges."""
        root["model"]["ignore_merges"] = True
        vocab = root["model"]["vocab"]
        for token in root["added_tokens"]:
            token["id"] += 2
        root["post_processor"]["processors"][1]["special_tokens"]["<|begin|>"]["ids"] = [begin + 2]
        vocab["xyz"], vocab["supercalifragilisticexpialidocious" * 4] = begin, begin + 1
    save_tokenizer("tokenizer_llama3", tok, ignore_merges)

    tok = train(split(WORDS % r"\p{N}"), 700)
    end = tok.token_to_id("<|end|>")
    tok.post_processor = processors.TemplateProcessing(single="$A <|end|>", special_tokens=[("<|end|>", end)])
    save_tokenizer("tokenizer_qwen2", tok)

    tok = train(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]), 600)
    save_tokenizer("tokenizer_digits", tok)

    save_cases(OUT / "tokenizer_demo", DEMO / "tokenizer.json", TEXTS + [
        "The code of x is 48213.\nQuestion: what is the key of beareash? Answer: The key of beareash is 90210.",
        "<|bos|>The quiet neighbor opened the house beyond the simple apple.<|eos|>"])


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    for name, spec in CHECKPOINTS.items():
        seed = next(s for s in range(spec["seed"], 1000, 10) if make_checkpoint(name, spec, s))
        print(f"{name}: seed {seed}")
    make_tokenizers()
    total = sum(f.stat().st_size for f in OUT.rglob("*") if f.is_file())
    print(f"{total} bytes, tokenizers {tokenizers.__version__}, torch {torch.__version__}")
    assert total < 2_000_000


if __name__ == "__main__":
    main()
