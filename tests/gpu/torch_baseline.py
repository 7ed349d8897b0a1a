#!/usr/bin/env python3
"""PyTorch's own attention on the same GPU, for comparison: causal prefill, and decode over long contexts."""
import itertools

import torch
import torch.nn.functional as F

LAYERS, HEADS, KV_HEADS, DIM = 32, 32, 8, 128


def seconds(call, repeats):
    for _ in range(3):
        call()
    times = []
    for _ in range(7):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e-3 / repeats)
    return sorted(times)[3]


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def print_decode(n, batch):
    """One layer, the better of two ways to say it: grouped heads, or a group's heads as rows of one KV head."""
    layers = 2 if batch * n > 122880 else 4  # enough that no cache serves them
    grouped, rows = random(batch, HEADS, 1, DIM), random(batch, KV_HEADS, HEADS // KV_HEADS, DIM)
    kv = [(random(batch, KV_HEADS, n, DIM), random(batch, KV_HEADS, n, DIM)) for _ in range(layers)]
    calls = itertools.count()

    def decode(q, gqa):
        F.scaled_dot_product_attention(q, *kv[next(calls) % layers], enable_gqa=gqa)

    ways = {"grouped": lambda: decode(grouped, True), "as rows": lambda: decode(rows, False)}
    t, way = min((seconds(call, 10), way) for way, call in ways.items())
    print(f"decode attention, {n} tokens, batch {batch}: {t * 1e6:.0f} us ({way}), "
          f"{4 * batch * KV_HEADS * n * DIM / t * 1e-9:.0f} GB/s, {LAYERS} layers {t * LAYERS * 1e3:.2f} ms")


def main():
    if not torch.cuda.is_available():
        raise SystemExit(2)
    print(torch.cuda.get_device_name(), torch.__version__)
    for n in (4096, 16384):
        q, k, v = random(1, HEADS, n, DIM), random(1, KV_HEADS, n, DIM), random(1, KV_HEADS, n, DIM)
        t = seconds(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), 5)
        print(f"prefill attention, {n} tokens: {t * 1e6:.0f} us, {2 * HEADS * DIM * n * n / t * 1e-12:.0f} TFLOP/s")
    for n in (122880, 61440, 245760):
        for batch in (1, 2, 4, 8):
            if batch * n <= 4 * 122880:
                print_decode(n, batch)


if __name__ == "__main__":
    main()
