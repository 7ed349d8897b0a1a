"""The demo model in PyTorch (a plain Llama), its safetensors file, and the documents it is trained and measured on."""
import json
import math
import random
import struct

import torch
import torch.nn as nn
import torch.nn.functional as F

import language as lang
from tokenizer_train import BOS, Tokenizer

VOCAB, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, THETA, EPS = 1536, 192, 3, 8, 4, 64, 384, 1e6, 1e-5
GROUP = HEADS // KV_HEADS
PROMPT = 17             # tokens of a question's prompt, "\nQuestion: ... is"; then " ", five digits, "."
TOKENIZER = Tokenizer()
INV_FREQ = THETA ** (-torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)


def rope_tables(positions):
    angle = positions.float()[..., None] * INV_FREQ
    return angle.cos(), angle.sin()


def rope(t, cos, sin):
    """t [..., heads, n, HEAD_DIM], rotate-half layout."""
    a, b = t[..., :HEAD_DIM // 2], t[..., HEAD_DIM // 2:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class RMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x):
        h = x.float()
        return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS) * self.w


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = nn.Linear(HIDDEN, HEADS * HEAD_DIM, bias=False)
        self.k = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=False)
        self.v = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=False)
        self.o = nn.Linear(HEADS * HEAD_DIM, HIDDEN, bias=False)

    def qkv(self, x):
        """x [B, n, HIDDEN] -> q [B, HEADS, n, HEAD_DIM] and k, v [B, KV_HEADS, n, HEAD_DIM], before RoPE."""
        heads = lambda linear, h: linear(x).view(*x.shape[:2], h, HEAD_DIM).transpose(1, 2)
        return heads(self.q, HEADS), heads(self.k, KV_HEADS), heads(self.v, KV_HEADS)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.attn, self.norm2 = RMSNorm(), Attention(), RMSNorm()
        self.gate = nn.Linear(HIDDEN, FFN, bias=False)
        self.up = nn.Linear(HIDDEN, FFN, bias=False)
        self.down = nn.Linear(FFN, HIDDEN, bias=False)

    def finish(self, x, heads):
        """The rest of the layer after attention; heads [B, HEADS, n, HEAD_DIM]."""
        x = x + self.attn.o(heads.transpose(1, 2).reshape(*x.shape[:2], HEADS * HEAD_DIM))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = RMSNorm()
        nn.init.normal_(self.embed.weight, std=.02)
        for p in self.layers.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=.04)

    def logits(self, x):
        return self.norm(x) @ self.embed.weight.t()

    def forward(self, ids, positions):
        """Plain dense forward (only the base stage of training uses it)."""
        cos, sin = (t[:, None] for t in rope_tables(positions))
        x = self.embed(ids)
        for layer in self.layers:
            q, k, v = layer.attn.qkv(layer.norm1(x))
            q, k = rope(q, cos.to(q.dtype), sin.to(q.dtype)), rope(k, cos.to(k.dtype), sin.to(k.dtype))
            x = layer.finish(x, F.scaled_dot_product_attention(
                q, k.repeat_interleave(GROUP, 1), v.repeat_interleave(GROUP, 1), is_causal=True))
        return self.logits(x)


def tensors(m):
    out = {"model.embed_tokens.weight": m.embed.weight, "model.norm.weight": m.norm.w}
    for i, l in enumerate(m.layers):
        p = f"model.layers.{i}."
        out |= {p + "input_layernorm.weight": l.norm1.w, p + "post_attention_layernorm.weight": l.norm2.w,
                p + "self_attn.q_proj.weight": l.attn.q.weight, p + "self_attn.k_proj.weight": l.attn.k.weight,
                p + "self_attn.v_proj.weight": l.attn.v.weight, p + "self_attn.o_proj.weight": l.attn.o.weight,
                p + "mlp.gate_proj.weight": l.gate.weight, p + "mlp.up_proj.weight": l.up.weight,
                p + "mlp.down_proj.weight": l.down.weight}
    return out


def save(m, path):
    header, offset, blobs = {}, 0, []
    for name, t in tensors(m).items():
        data = t.detach().bfloat16().contiguous().view(torch.int16).numpy().tobytes()
        header[name] = {"dtype": "BF16", "shape": list(t.shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        blobs.append(data)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + b"".join(blobs))


def load(path):
    m = Model()
    raw = open(path, "rb").read()
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:start])
    for name, t in tensors(m).items():
        a, b = header[name]["data_offsets"]
        t.data.copy_(torch.frombuffer(bytearray(raw[start + a:start + b]), dtype=torch.bfloat16).view(t.shape).float())
    return m


def shared_prefix_values(r):
    """Values that share their first digits, so that the digits already written do not identify the fact."""
    k = r.choice([1, 2, 3])
    prefixes = [r.randint(10 ** (k - 1), 10 ** k - 1) for _ in range(r.randint(1, 4))]
    return lambda: str(r.choice(prefixes)) + "".join(r.choice("0123456789") for _ in range(5 - k))


def document(r, length, facts, near_duplicates=.7, shared_prefixes=0.):
    """`length` tokens starting with BOS, with `facts` facts at uniformly drawn places among filler sentences.

    With probability `near_duplicates` the names come from a pool so small that most carry several attributes.
    Returns the ids and, per fact that is complete, ((name, attribute, value), index of its first token).
    """
    pool = lang.NAMES
    if r.random() < near_duplicates:
        pool = r.sample(lang.NAMES, min(len(lang.NAMES), max(2, int(facts / r.uniform(1.5, 3.5)))))
    facts = min(facts, 4 * len(pool))
    draw = shared_prefix_values(r) if shared_prefixes and r.random() < shared_prefixes else lambda: lang.value(r)
    table = {}
    while len(table) < facts:
        table[r.choice(pool), r.choice(lang.ATTRIBUTES)] = draw()
    pieces = [((n, a, v), TOKENIZER.encode(" " + lang.fact(n, a, v))) for (n, a), v in table.items()]
    left, filler = length - 1 - sum(len(t) for _, t in pieces), []
    while left > 0:
        filler.append(TOKENIZER.encode(" " + lang.sentence(r)))
        left -= len(filler[-1])
    gaps = sorted(r.randint(0, len(filler)) for _ in pieces)
    r.shuffle(pieces)
    ids, where, k = [BOS], [], 0
    for i in range(len(filler) + 1):
        while k < len(pieces) and gaps[k] == i:
            where.append((pieces[k][0], len(ids)))
            ids += pieces[k][1]
            k += 1
        if i < len(filler):
            ids += filler[i]
    return ids[:length], [(key, p) for key, p in where if p + 13 <= length]


def question_tokens(key):
    """PROMPT tokens, " ", five digits, "."."""
    return TOKENIZER.encode("\n" + lang.question(*key))
