#!/usr/bin/env python3
"""PyTorch's own attention on the same GPU, for comparison: causal prefill in TFLOP/s, decode over a long context in GB/s."""
import torch
import torch.nn.functional as F

HEADS, KV_HEADS, DIM = 32, 8, 128


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


def main():
    if not torch.cuda.is_available():
        raise SystemExit(2)
    print(torch.cuda.get_device_name(), torch.__version__)
    for n in (4096, 16384):
        q, k, v = random(1, HEADS, n, DIM), random(1, KV_HEADS, n, DIM), random(1, KV_HEADS, n, DIM)
        t = seconds(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), 5)
        print(f"prefill attention, {n} tokens: {t * 1e6:.0f} us, {2 * HEADS * DIM * n * n / t * 1e-12:.0f} TFLOP/s")
    for batch in (1, 4):
        n = 122880
        layers = 2 if batch == 4 else 4
        q = random(batch, HEADS, 1, DIM)
        kv = [(random(batch, KV_HEADS, n, DIM), random(batch, KV_HEADS, n, DIM)) for _ in range(layers)]
        calls = iter(range(1 << 30))

        def decode():
            k, v = kv[next(calls) % layers]
            F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

        t = seconds(decode, 10)
        print(f"decode attention, {n} tokens, batch {batch}: {t * 1e6:.0f} us, "
              f"{4 * batch * KV_HEADS * n * DIM / t * 1e-9:.0f} GB/s")


if __name__ == "__main__":
    main()
