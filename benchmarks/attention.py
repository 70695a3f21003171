"""Ways to attend in a packed row: a whole mask, blocks, and on an NVIDIA GPU cuDNN's kernel with and without a window.

    python benchmarks/attention.py [--length L] [--reach N] [--heads K] [--width H] [--rounds N] [--json OUT]

Milliseconds of the forward pass, and of forward and backward, of one layer's attention in bfloat16 (float32 on a CPU).
"""

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from mtlora_jax.bench.step import environment
from mtlora_jax.devices import on_nvidia
from mtlora_jax.language import attention


def milliseconds(fn, *args, rounds: int) -> float:
    fn = jax.jit(fn)
    for _ in range(2):
        jax.block_until_ready(fn(*args))
    began = time.perf_counter()
    for _ in range(rounds):
        result = fn(*args)
    jax.block_until_ready(result)
    return (time.perf_counter() - began) / rounds * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("length", 4096), ("reach", 256), ("heads", 32), ("width", 128), ("rounds", 10)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json")
    args = parser.parse_args()
    gpu = on_nvidia()
    shape, key = (1, args.length, args.heads, args.width), jax.random.key(0)
    dtype = jnp.bfloat16 if gpu else jnp.float32
    q, k, v = (jax.random.normal(jax.random.fold_in(key, i), shape, dtype) for i in range(3))
    ids = jnp.asarray((np.arange(args.length) // (args.reach // 2) + 1)[None], jnp.int32)
    allowed = attention.causal_mask(ids)

    def cudnn(q, k, v, window=None):
        return jax.nn.dot_product_attention(
            q, k, v, mask=allowed[:, None], is_causal=True, local_window_size=window, implementation="cudnn"
        )

    blocks = attention.blocks_mask(ids, args.reach)
    ways = {
        "whole mask": lambda q, k, v: attention.plain(q, k, v, allowed),
        "blocks": lambda q, k, v: attention.attend(q, k, v, blocks),
    }
    if gpu:
        ways["cudnn"] = cudnn
        ways["cudnn, window"] = lambda q, k, v: cudnn(q, k, v, (args.reach - 1, 0))
    report = {"command": " ".join(["python", *sys.argv]), **environment(), "milliseconds": {}}
    for name, way in ways.items():

        def loss(q, k, v, way=way):
            return (way(q, k, v).astype(jnp.float32) ** 2).sum()

        both = jax.value_and_grad(loss, (0, 1, 2))
        report["milliseconds"][name] = {
            "forward": milliseconds(way, q, k, v, rounds=args.rounds),
            "forward and backward": milliseconds(both, q, k, v, rounds=args.rounds),
        }
    print(json.dumps(report, indent=2))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
        print(f"wrote {args.json}", file=sys.stderr)


if __name__ == "__main__":
    main()
