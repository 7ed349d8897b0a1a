"""Trains the demo model, all stages in order, on CPU.

    python train.py --folder runs              # from scratch
    python train.py --folder runs --from long  # resumes: needs runs/prefixes.safetensors

Each stage writes <folder>/<stage>.safetensors (an average of the weights over the last steps; the base stage: the last weights)
and the next one starts from it with a fresh optimizer. Seeds are fixed; threads and the low precision of autocast keep two
runs from being equal bit for bit.
"""
import argparse
import copy
import math
import os
import random
import time
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

import evaluate as E
import language as lang
import model as M
from model import GROUP, HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, PROMPT, TOKENIZER, VOCAB, rope, rope_tables

CHUNK = E.CHUNK
DECODED = 6                      # queries decoded under the selection rule: the prompt's last token, " " and four digits
QUESTION = PROMPT + DECODED      # inputs of a question: prompt, " ", five digits (the last target is ".")
FARTHEST = 131072                # positions are drawn from [0, FARTHEST)


# ---- stage "base": repeated random sequences until copying appears, then short documents, then longer ones -------------------

BASE_STEPS, BASE_SEED = 3400, 7
BASE_FACTS = {128: 3, 256: 6, 512: 14, 1024: 30, 2048: 60}
BASE_QUESTIONS = {128: 3, 256: 5, 512: 10, 1024: 18, 2048: 36}
COPY_POOL = [TOKENIZER.ids["\u0120" + n] for n in lang.NAMES] + list(range(256, 1500)) + [TOKENIZER.ids[str(d)] for d in range(10)] * 20


def base_example(r, length, facts, questions):
    """A document with its questions at the end, and a loss weight per token (digits 3, the rest of an answer 1 or .2)."""
    table = {}
    while len(table) < facts:
        table[r.choice(lang.NAMES), r.choice(lang.ATTRIBUTES)] = lang.value(r)
    items = list(table.items())
    asked = [TOKENIZER.encode(("\n" if i == 0 else " ") + lang.question(*k, v))
             for i, (k, v) in enumerate(r.sample(items, min(questions, facts)))]
    body, tail = [], sum(map(len, asked))
    stated = [TOKENIZER.encode(" " + lang.fact(*k, v)) for k, v in items]
    left = length - tail - sum(map(len, stated))
    while left > 0:
        body.append(TOKENIZER.encode(" " + lang.sentence(r)))
        left -= len(body[-1])
    for s in stated:
        body.insert(r.randint(0, len(body)), s)
    ids = ([M.BOS] + [t for s in body for t in s])[:length + 1 - tail]
    weight = [.2] * len(ids)
    for q in asked:
        ids += q
        weight += [.2] * (len(q) - 6) + [3.] * 5 + [1.]
    return ids[:length + 1], weight[:length + 1]


def base_batch(r, batch, length, copies):
    """`copies`: the share of rows that repeat one random sequence. Half the rows get position gaps, a quarter an offset."""
    rows, weights, positions = [], [], []
    for _ in range(batch):
        if r.random() < copies:
            n = r.randint(16, length // 2)
            unit, row = [r.choice(COPY_POOL) for _ in range(n)], [M.BOS]
            while len(row) < length + 1:
                row += unit
            row, weight = row[:length + 1], [0.] * (n + 2) + [1.] * (length - 1 - n)
        else:
            row, weight = base_example(r, length, BASE_FACTS[length], BASE_QUESTIONS[length])
        rows.append(row)
        weights.append(weight)
        if r.random() < .5:
            cuts = sorted(r.sample(range(64, length), r.randint(1, 6)))
            gaps = sorted(r.randint(0, FARTHEST - length) for _ in range(len(cuts) + 1))
            positions.append([i + gaps[sum(i >= c for c in cuts)] for i in range(length)])
        else:
            o = r.randint(0, FARTHEST - length) if r.random() < .5 else 0
            positions.append(list(range(o, o + length)))
    rows = torch.tensor(rows)
    return rows[:, :-1], rows[:, 1:], torch.tensor(weights)[:, 1:], torch.tensor(positions)


def base(path):
    torch.manual_seed(0)
    r, m, began = random.Random(BASE_SEED), M.Model(), time.time()
    optimizer = torch.optim.AdamW(m.parameters(), lr=1e-3, betas=(.9, .98), weight_decay=.05)
    for step in range(BASE_STEPS):
        done = step / BASE_STEPS
        length, batch = ((128, 64) if step < 1000 else (256, 32) if done < .55 else (512, 14) if done < .75
                         else (1024, 6) if done < .9 else (2048, 2))
        copies = .8 if step < 700 else .15 if done < .6 else .03
        for g in optimizer.param_groups:
            g["lr"] = 2e-3 * min(1, (step + 1) / 100) * (.5 * (1 + math.cos(math.pi * done)) * .95 + .05)
        x, y, w, positions = base_batch(r, batch, length, copies)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = m(x, positions)
        loss = (F.cross_entropy(logits.float().view(-1, VOCAB), y.reshape(-1), reduction="none").view_as(y) * w).sum() / w.sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(m.parameters(), 1.)
        optimizer.step()
        if step % 25 == 0:
            right = (logits.argmax(-1) == y).float()
            print(f"base {step} length {length} loss {loss.item():.3f} copied {right[w == 1].mean().item():.3f} "
                  f"digits {right[w == 3].mean().item():.3f} {time.time() - began:.0f} s", flush=True)
    M.save(m, path)


# ---- the later stages: documents with many facts; every question sees the whole document and itself --------------------------

@dataclass
class Group:
    steps: int
    batch: int
    length: int       # tokens of a document
    segment: int      # tokens of a document attend within segments of this length (= length: the whole document)
    facts: int        # times a factor drawn from [.6, 1.2]
    questions: int    # per document
    selection: float  # share of steps whose decoded tokens attend under the selection rule


@dataclass
class Stage:
    name: str
    start: str
    seed: int
    groups: list
    lr: float
    lr_end: float
    landmark: float                # weight of the landmark loss
    shared_prefixes: float = 0.    # share of documents whose values share their first digits
    gaps: float = .5               # share of documents with gaps in the positions
    stop: int = 0                  # ends the stage early (the schedule is not shortened)
    sharpen: float = 1.            # factor on the first layer's query weights at the start
    sharpen_after: float = 1.      # the same at the end
    warmup: int = 40
    average: float = .98           # decay of the weight average


STAGES = [
    # tells attributes of one name apart
    Stage("attributes", "base", 1, [Group(350, 8, 1024, 1024, 60, 24, 0)], 1.2e-3, 3e-4, .05, stop=200),
    # more facts
    Stage("crowded", "attributes", 2, [Group(120, 4, 2048, 2048, 100, 24, .25), Group(140, 2, 4096, 4096, 170, 24, .25)],
          8e-4, 4e-4, .05, stop=130),
    # every digit by name and attribute, not by the digits before it
    Stage("prefixes", "crowded", 3, [Group(300, 6, 1536, 1536, 115, 40, .2)], 8e-4, 2e-4, .05, .6, .25, stop=110),
    # local heads that stay local in long documents
    Stage("long", "prefixes", 4, [Group(70, 1, 8192, 8192, 200, 80, .25)], 5e-4, 5e-5, .05, .5, .1, stop=60,
          sharpen=1.25, warmup=10, average=.95, sharpen_after=1.15),
]


def positions(r, length, share):
    """Position ids: gaps at multiples of CHUNK, or an offset, or 0, 1, 2, ..."""
    p = torch.arange(length)
    if r.random() < share:
        cuts = sorted(CHUNK * r.randint(8, length // CHUNK - 1) for _ in range(r.randint(1, 6)))
        gaps = sorted(r.randint(0, FARTHEST - length - 64) for _ in range(len(cuts) + 1))
        add = torch.full((length,), gaps[0])
        for cut, gap in zip(cuts, gaps[1:]):
            add[cut:] = gap
        return p + add
    return p + (r.randint(0, FARTHEST - length - 64) if r.random() < .5 else 0)


def batch(r, g, stage):
    ids, pos, asked, where = [], [], [], []
    facts = int(g.facts * r.uniform(.6, 1.2))
    for _ in range(g.batch):
        known = []
        while len(known) < g.questions:
            tokens, known = M.document(r, g.length, facts, .7, stage.shared_prefixes)
        chosen = r.sample(known, g.questions)
        ids.append(tokens)
        asked.append([M.question_tokens(k)[:QUESTION] for k, _ in chosen])
        where.append([p for _, p in chosen])
        pos.append(positions(r, g.length, stage.gaps))
    return torch.tensor(ids), torch.stack(pos), torch.tensor(asked), torch.tensor(where)


def forward(m, ids, pos, asked, where, segment, selection, whole):
    """ids, pos [B, n]; asked [B, Q, QUESTION]; where [B, Q]: index of the fact that answers.

    Returns the document's last hidden states (if `whole`), the questions' logits and the landmark loss: how far, per decoded
    query and head, the landmark softmax is below e^-2.5 on the chunks of the answering fact that the query attends to.
    """
    (b, n), q_count, low = ids.shape, asked.shape[1], torch.bfloat16
    parts, end = n // segment, (n + PROMPT - E.WINDOW) // CHUNK * CHUNK
    chunks = end // CHUNK
    d_cos, d_sin = (t.to(low) for t in rope_tables(pos.view(b * parts, 1, segment)))
    q_pos = (pos[:, -1:] + 1 + torch.arange(QUESTION))[:, None].expand(b, q_count, QUESTION)
    q_cos, q_sin = (t.to(low) for t in rope_tables(q_pos.reshape(b, 1, -1)))
    x, y = m.embed(ids.view(b * parts, segment)), m.embed(asked.view(b, -1))
    decoded = torch.arange(PROMPT - 1, PROMPT - 1 + DECODED)
    others = torch.cat([torch.arange(PROMPT - 1), torch.arange(PROMPT - 1 + DECODED, QUESTION)])
    causal = torch.zeros(QUESTION, QUESTION).masked_fill(torch.ones(QUESTION, QUESTION).triu(1).bool(), -1e30)
    own = torch.full((q_count, QUESTION, q_count, QUESTION), -1e30)
    own[torch.arange(q_count), :, torch.arange(q_count), :] = causal
    mask = torch.cat([torch.zeros(q_count * len(others), n), own[:, others].reshape(q_count * len(others), -1)], 1).to(low)
    shape = (b, KV_HEADS, GROUP, q_count, DECODED)
    near = (where[:, :, None] // CHUNK + torch.arange(4)).clamp(max=chunks - 1)      # the chunks around the answering fact
    near = near[:, None, None, :, None].expand(*shape, 4)
    landmark_loss = 0.
    for i, layer in enumerate(m.layers):
        last = i == LAYERS - 1
        q, k, v = layer.attn.qkv(layer.norm1(x))
        q, k = rope(q, d_cos, d_sin), rope(k, d_cos, d_sin)
        if whole or not last:
            o = F.scaled_dot_product_attention(q, k.repeat_interleave(GROUP, 1), v.repeat_interleave(GROUP, 1), is_causal=True)
        join = lambda t: t.unflatten(0, (b, parts)).transpose(1, 2).flatten(2, 3)     # [B, KV_HEADS, n, HEAD_DIM]
        k, v = join(k), join(v)
        qq, kq, vq = layer.attn.qkv(layer.norm1(y))
        qq, kq = rope(qq, q_cos, q_sin).unflatten(2, (q_count, QUESTION)), rope(kq, q_cos, q_sin)
        # the prompt's tokens (all but the last): dense
        dense = F.scaled_dot_product_attention(
            qq[:, :, :, others].flatten(2, 3), torch.cat([k, kq], 2).repeat_interleave(GROUP, 1),
            torch.cat([v, vq], 2).repeat_interleave(GROUP, 1), attn_mask=mask)
        # the decoded tokens: dense or under the selection rule
        qd = qq[:, :, :, decoded].reshape(b, KV_HEADS, -1, HEAD_DIM) * HEAD_DIM ** -.5
        far = (qd @ k.transpose(-1, -2)).float().view(*shape, n)
        k_own, v_own = (t.view(b, KV_HEADS, 1, q_count, QUESTION, HEAD_DIM) for t in (kq, vq))
        local = (qd.view(*shape, HEAD_DIM) @ k_own.transpose(-1, -2)).float() + causal[decoded]
        grouped = k[:, :, :end].unflatten(2, (chunks, CHUNK)).float()
        landmark = grouped.mean(3)
        with torch.no_grad():
            lowest = F.cosine_similarity(grouped, landmark[:, :, :, None], dim=-1).amin(-1)
            lowest[:, :, 0] = 2
            always = torch.zeros(lowest.shape, dtype=torch.bool).scatter_(2, lowest.topk(E.OUTLIERS, largest=False).indices, True)
            always[:, :, 0] = True
            always = always[:, :, None, None, None]
        ranks = (qd @ landmark.to(low).transpose(-1, -2)).float().view(*shape, chunks).masked_fill(always, -1e30).log_softmax(-1)
        if selection:
            with torch.no_grad():
                best = ranks.amax(2, keepdim=True).topk(min(E.SELECTED, chunks // 4), -1).indices
                keep = always.expand(b, KV_HEADS, 1, *shape[3:], chunks).clone().scatter_(-1, best, True)
                drop = ~keep.repeat_interleave(CHUNK, -1)
            far = torch.cat([far[..., :end].masked_fill(drop, -1e30), far[..., end:]], -1)
        a = torch.cat([far, local], -1).softmax(-1)
        with torch.no_grad():
            share = torch.gather(a[..., :end].unflatten(-1, (chunks, CHUNK)).sum(-1), -1, near)
            share = share * (share > .02) * ~torch.gather(always.expand(*shape, chunks), -1, near)
        landmark_loss = landmark_loss + (share * F.relu(-2.5 - torch.gather(ranks, -1, near))).sum() / math.prod(shape)
        a = a.to(low)
        od = (a[..., :n].reshape(b, KV_HEADS, -1, n) @ v).view(*shape, HEAD_DIM) + a[..., n:] @ v_own
        heads = torch.empty(b, HEADS, q_count, QUESTION, HEAD_DIM, dtype=low)
        heads = heads.index_copy(3, others, dense.unflatten(2, (q_count, len(others))))
        heads = heads.index_copy(3, decoded, od.reshape(b, HEADS, q_count, DECODED, HEAD_DIM).to(low))
        y = layer.finish(y, heads.flatten(2, 3))
        if whole or not last:
            x = layer.finish(x, o)
    return x, m.logits(y).view(b, q_count, QUESTION, VOCAB), landmark_loss


def run(stage, folder):
    torch.manual_seed(stage.seed)
    r = random.Random(f"train{stage.seed}")
    m = M.load(f"{folder}/{stage.start}.safetensors")
    m.layers[0].attn.q.weight.data *= stage.sharpen
    average, began, step = copy.deepcopy(m), time.time(), 0
    optimizer = torch.optim.AdamW(m.parameters(), lr=stage.lr, betas=(.9, .98), weight_decay=.01)
    total, right = sum(g.steps for g in stage.groups), {False: [], True: []}
    for g in stage.groups:
        for _ in range(g.steps):
            if stage.stop and step == stage.stop:
                break
            for group in optimizer.param_groups:
                group["lr"] = (stage.lr_end + (stage.lr - stage.lr_end) * min(1, (step + 1) / stage.warmup)
                               * .5 * (1 + math.cos(math.pi * step / total)))
            data = batch(r, g, stage)
            whole, selection = r.random() < 1 / 3, r.random() < g.selection
            with torch.autocast("cpu", dtype=torch.bfloat16):
                x, logits, landmark = forward(m, *data, g.segment, selection, whole)
                filler = 0.
                if whole:           # language modelling of the document, at 2,048 places of every third step
                    x, following = x.reshape(-1, HIDDEN), data[0].reshape(-1).roll(-1)
                    i = torch.randint(0, len(x) - 1, (2048,))
                    i = i[(i + 1) % g.segment != 0]
                    filler = F.cross_entropy(m.logits(x[i]).float(), following[i])
            target = data[2][:, :, 1:]
            ce = F.cross_entropy(logits[:, :, :-1].float().flatten(0, 2), target.flatten(), reduction="none").view_as(target)
            digits = ce[:, :, PROMPT:PROMPT + 5]
            form = torch.cat([ce[:, :, 9:PROMPT], ce[:, :, PROMPT + 5:]], 2)
            loss = digits.mean() + .1 * form.mean() + .3 * filler + stage.landmark * landmark
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(m.parameters(), 1.)
            optimizer.step()
            with torch.no_grad():
                keep = min(stage.average, (step + 1) / (step + 10))
                for p, q in zip(average.parameters(), m.parameters()):
                    p.lerp_(q, 1 - keep)
            hit = (logits[:, :, PROMPT:PROMPT + 5].argmax(-1) == target[:, :, PROMPT:PROMPT + 5]).all(-1).float().mean().item()
            right[selection].append(hit)
            step += 1
            if step % 10 == 0:
                text = " ".join(f"{'selection' if s else 'dense'} {sum(h) / len(h):.3f}" for s, h in right.items() if h)
                right = {False: [], True: []}
                print(f"{stage.name} {step} length {g.length} right (teacher-forced): {text}; digits {digits.mean().item():.3f} "
                      f"landmark {landmark.item():.3f} {time.time() - began:.0f} s", flush=True)
    average.layers[0].attn.q.weight.data *= stage.sharpen_after
    path = f"{folder}/{stage.name}.safetensors"
    M.save(average, path + ".tmp")
    os.replace(path + ".tmp", path)
    E.evaluate(average, 8192, 2, 25, (64, 200), "dev")


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--folder", default="runs")
    p.add_argument("--from", dest="first", default="base", help="first stage to run")
    p.add_argument("--threads", type=int, default=0)
    a = p.parse_args()
    os.makedirs(a.folder, exist_ok=True)
    if a.threads:
        torch.set_num_threads(a.threads)
    names = ["base"] + [s.name for s in STAGES]
    for name in names[names.index(a.first):]:
        if name == "base":
            base(f"{a.folder}/base.safetensors")
        else:
            run(next(s for s in STAGES if s.name == name), a.folder)
