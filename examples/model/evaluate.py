"""Measures how many questions the model answers (all five digits, greedy) with full attention and under ShadowKV's rule.

    python evaluate.py                                  # 32,768 tokens, 4 documents, 25 questions each
    python evaluate.py --context 2048 8192 --documents 2 --facts 64 200 --seed other

full     every query attends everything.
exact    the prompt's last token and the answer's tokens attend, per layer and KV head: chunk 0, the OUTLIERS chunks whose
         smallest cosine(key, chunk mean) is lowest, the SELECTED chunks that rank highest, and the last 32 to 39 prompt tokens
         with everything after them. Chunks are 8 tokens at absolute multiples of 8; a chunk's landmark is the mean of its
         post-RoPE keys; rank = max over the query group of softmax(q . landmark / sqrt(d)), outliers and chunk 0 left out.
lowrank  the same, with the selected chunks' keys rebuilt: pre-RoPE keys of all KV heads side by side, centred, projected on
         their RANK leading directions, RoPE applied after.
All prompt tokens but the last are processed with full attention in every mode.
"""
import argparse
import math
import random
import time

import torch
import torch.nn.functional as F

import model as M
from model import GROUP, HEAD_DIM, HEADS, KV_HEADS, LAYERS, PROMPT, TOKENIZER, rope, rope_tables

CHUNK, SELECTED, OUTLIERS, WINDOW, RANK = 8, 64, 12, 32, 40
ANSWER = 5
SPACE = TOKENIZER.encode(" 1")[0]


@torch.no_grad()
def prefill(m, ids, fast):
    """Dense causal pass over a document; keys before and after RoPE and values, per layer."""
    positions = torch.arange(len(ids))
    cos, sin = rope_tables(positions)
    x, cache = m.embed(torch.tensor(ids))[None], []
    kind = torch.bfloat16 if fast else torch.float32
    for layer in m.layers:
        q, k_pre, v = layer.attn.qkv(layer.norm1(x))
        q, k = rope(q, cos, sin), rope(k_pre, cos, sin)
        a = F.scaled_dot_product_attention(q.to(kind), k.repeat_interleave(GROUP, 1).to(kind),
                                           v.repeat_interleave(GROUP, 1).to(kind), is_causal=True)
        x = layer.finish(x, a.float())
        cache.append({"k": k[0], "v": v[0], "k_pre": k_pre[0]})
    return cache


@torch.no_grad()
def index(cache, end, rank, selected_outliers=OUTLIERS):
    """Adds landmarks, always-attended chunks and rebuilt keys; chunks cover [0, end)."""
    for c in cache:
        chunks = c["k"][:, :end].view(KV_HEADS, end // CHUNK, CHUNK, HEAD_DIM)
        c["landmark"] = chunks.mean(2)
        lowest = F.cosine_similarity(chunks, c["landmark"][:, :, None], dim=-1).amin(-1)
        lowest[:, 0] = 2
        c["always"] = torch.zeros(lowest.shape, dtype=torch.bool)
        c["always"].scatter_(1, lowest.topk(selected_outliers, largest=False).indices, True)
        c["always"][:, 0] = True
        flat = c["k_pre"].transpose(0, 1).reshape(-1, KV_HEADS * HEAD_DIM)
        mean = flat.mean(0)
        z = flat - mean
        values, vectors = torch.linalg.eigh((z.t() @ z).double())
        basis = vectors[:, -rank:].float()
        c["energy"] = (values[-rank:].sum() / values.sum()).item()
        rebuilt = (z @ basis) @ basis.t() + mean
        c["k_low"] = rope(rebuilt.view(-1, KV_HEADS, HEAD_DIM).transpose(0, 1), *rope_tables(torch.arange(len(flat))))


@torch.no_grad()
def answer(m, cache, keys, mode):
    """Greedy answers to questions that share a document: token ids [questions, 5], and whether " " came first."""
    n, questions = cache[0]["k"].shape[1], len(keys)
    prompts = torch.tensor([M.question_tokens(k)[:PROMPT] for k in keys])
    end = (n + PROMPT - WINDOW) // CHUNK * CHUNK
    own = [(torch.zeros(questions, KV_HEADS, 0, HEAD_DIM),) * 2 for _ in range(LAYERS)]

    def step(tokens, start, sparse):
        t = tokens.shape[1]
        cos, sin = rope_tables(torch.arange(start, start + t))
        x = m.embed(tokens)
        for i, (layer, c) in enumerate(zip(m.layers, cache)):
            q, k, v = layer.attn.qkv(layer.norm1(x))
            q, k = rope(q, cos, sin), rope(k, cos, sin)
            own[i] = k_own, v_own = torch.cat([own[i][0], k], 2), torch.cat([own[i][1], v], 2)
            q = q.view(questions, KV_HEADS, GROUP, t, HEAD_DIM) / math.sqrt(HEAD_DIM)
            scores = torch.einsum("qhgtd,hsd->qhgts", q, c["k"])
            if sparse:
                rank = torch.einsum("qhgtd,hcd->qhgtc", q, c["landmark"]).masked_fill(c["always"][:, None, None], -1e30)
                best = rank.softmax(-1).amax((2, 3)).topk(min(SELECTED, end // CHUNK - OUTLIERS - 1), -1).indices
                always = c["always"].expand(questions, -1, -1)
                keep = always.clone().scatter_(2, best, True)
                wide = lambda mask: mask.repeat_interleave(CHUNK, -1)[:, :, None, None]
                if mode == "lowrank":
                    low = torch.einsum("qhgtd,hsd->qhgts", q, c["k_low"][:, :end])
                    scores[..., :end] = torch.where(wide(always), scores[..., :end], low)
                scores[..., :end].masked_fill_(~wide(keep), -1e30)
            later = torch.ones(t, k_own.shape[2]).triu(k_own.shape[2] - t + 1).bool()
            local = torch.einsum("qhgtd,qhsd->qhgts", q, k_own).masked_fill(later, -1e30)
            a = torch.cat([scores, local], -1).softmax(-1)
            o = torch.einsum("qhgts,hsd->qhgtd", a[..., :n], c["v"]) + torch.einsum("qhgts,qhsd->qhgtd", a[..., n:], v_own)
            x = layer.finish(x, o.reshape(questions, HEADS, t, HEAD_DIM))
        return m.logits(x[:, -1]).argmax(-1)

    sparse = mode != "full"
    step(prompts[:, :-1], n, False)
    token = step(prompts[:, -1:], n + PROMPT - 1, sparse)
    first, out = token == SPACE, []
    for i in range(ANSWER):
        token = step(token[:, None], n + PROMPT + i, sparse)
        out.append(token)
    return torch.stack(out, 1), first


def evaluate(m, context, documents, questions, facts, seed, rank=RANK, modes=("full", "exact", "lowrank"), fast=True, show=True):
    """Right answers per mode; `context` counts the whole prompt, `facts` is a range drawn from per document."""
    right, began = {mode: [] for mode in modes}, time.time()
    for d in range(documents):
        r = random.Random(f"{seed}/{context}/{d}")
        n = context - PROMPT
        ids, where = M.document(r, n, r.randint(*facts))
        cache = prefill(m, ids, fast)
        index(cache, (context - WINDOW) // CHUNK * CHUNK, rank)
        asked = [key for key, _ in r.sample(where, min(questions, len(where)))]
        batch = max(1, 480000 // n)
        for mode in modes:
            for i in range(0, len(asked), batch):
                keys = asked[i:i + batch]
                out, first = answer(m, cache, keys, mode)
                want = torch.tensor([TOKENIZER.encode(key[2]) for key in keys])
                right[mode] += ((out == want).all(1) & first).tolist()
    if show:
        text = [f"{mode} {sum(v)}/{len(v)}" + (f" (lost {sum(a and not b for a, b in zip(right['full'], v))})"
                if mode != "full" and "full" in right else "") for mode, v in right.items()]
        energy = "/".join(f"{c['energy']:.3f}" for c in cache)
        print(f"{context} tokens: " + ", ".join(text) + f"; rank-{rank} energy {energy}; {time.time() - began:.0f} s", flush=True)
    return right


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--weights", default="model.safetensors")
    p.add_argument("--context", type=int, nargs="+", default=[32768])
    p.add_argument("--documents", type=int, default=4)
    p.add_argument("--questions", type=int, default=25, help="per document")
    p.add_argument("--facts", type=int, nargs=2, default=[64, 200], help="least and most per document")
    p.add_argument("--seed", default="test")
    p.add_argument("--rank", type=int, default=RANK)
    p.add_argument("--modes", nargs="+", default=["full", "exact", "lowrank"])
    p.add_argument("--exact-prefill", action="store_true", help="document attention in float32 instead of bfloat16")
    a = p.parse_args()
    weights = M.load(a.weights)
    for context in a.context:
        evaluate(weights, context, a.documents, a.questions, a.facts, a.seed, a.rank, a.modes, not a.exact_prefill)
