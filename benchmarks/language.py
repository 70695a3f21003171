"""MTL-LoRA's training step on a decoder beside plain LoRA in our own code, and beside transformers with PEFT's LoRA.

    python benchmarks/language.py [--shape smollm2|llama2_7b|llama3_8b] [--rows B] [--length L] [--packed]
        [--tasks T] [--remat none|dots|full] [--dtype bfloat16] [--sides NAMES] [--rounds N] [--profile] [--json OUT]

Forward, backward and update with made-up weights and tokens. Texts have the lengths of the commonsense sets, about: a
prompt of 60 to 200 tokens and an answer of 8, which is what is learned. Padded rows hold one text each; packed rows as
many as fit. Tokens of padding are not counted. The sides take turns, each in a process of its own.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from side_by_side import Side, compare, of_jax, of_torch

SHAPES = {
    "smollm2": (49152, 576, 1536, 30, 9, 3, True),
    "llama2_7b": (32000, 4096, 11008, 32, 32, 32, False),
    "llama3_8b": (128256, 4096, 14336, 32, 32, 8, False),
    "tiny": (512, 64, 128, 2, 4, 2, False),
}
"""vocabulary, hidden, intermediate, layers, heads, key heads, tied"""
ANSWER = 8


def texts(args) -> list[list[int]]:
    """Lengths of the texts of each row."""
    rng, rows = np.random.default_rng(0), []
    longest = min(args.cutoff, args.length)
    for _ in range(args.rows):
        row: list[int] = []
        while not row or args.packed:
            n = min(int(np.clip(rng.lognormal(4.6, 0.35), 30, 250)), longest)
            if sum(row) + n > args.length:
                break
            row.append(n)
        rows.append(row)
    return rows


def batch_of(args, vocabulary: int) -> dict[str, np.ndarray]:
    rng, shape = np.random.default_rng(1), (args.rows, args.length)
    tokens = rng.integers(3, vocabulary, shape).astype(np.int32)
    targets, segments = np.full(shape, -100, np.int32), np.zeros(shape, np.int32)
    task_id = np.zeros(shape, np.int32)
    for b, row in enumerate(texts(args)):
        begin = 0
        for s, n in enumerate(row):
            segments[b, begin : begin + n] = s + 1
            task_id[b, begin : begin + n] = rng.integers(args.tasks)
            last = begin + n - 1
            targets[b, last - ANSWER : last] = tokens[b, last - ANSWER + 1 : last + 1]
            begin += n
    names = {f"task{t}": np.ones(args.rows, bool) for t in range(args.tasks)}
    task_id = task_id if args.packed else task_id[:, 0]
    return {"tokens": tokens, "targets": targets, "segment_ids": segments, "task_id": task_id, "valid": names}


def program_of(args, method: str) -> tuple:
    """The `Program`, and what to say about it."""
    import jax
    import jax.numpy as jnp
    import ml_dtypes
    from flax import traverse_util

    from mtlora_jax.bench.step import Program
    from mtlora_jax.config import Mesh, Optim
    from mtlora_jax.engine.mesh import make_mesh, replicated
    from mtlora_jax.engine.optim import make_optimizer, schedule
    from mtlora_jax.engine.process import prepare
    from mtlora_jax.engine.state import State
    from mtlora_jax.engine.step import make_train_step
    from mtlora_jax.language.adapter import Adapter
    from mtlora_jax.text.config import TaskConfig, TextConfig
    from mtlora_jax.text.llama import LlamaSpec
    from mtlora_jax.text.workload import make_workload

    prepare()
    V, D, F, layers, heads, kv_heads, tied = SHAPES[args.shape]
    config = TextConfig(
        name="bench",
        model=LlamaSpec(V, D, F, layers, heads, kv_heads, tied=tied),
        adapter=Adapter(method=method, rank=8, alpha=16.0),
        tasks={f"task{t}": TaskConfig(answers=("yes",)) for t in range(args.tasks)},
        cutoff=args.cutoff,
        pack=args.length if args.packed else 0,
        dtype=args.dtype,
        remat=args.remat,
        optim=Optim(lr=3e-4, schedule="linear", weight_decay=0.0, clip_norm=1.0, absent_tasks="step"),
    )
    workload, mesh = make_workload(config), make_mesh(Mesh())
    shapes = traverse_util.flatten_dict(jax.eval_shape(lambda: workload.init(0)), sep="/")
    half = ml_dtypes.bfloat16 if args.dtype == "bfloat16" else np.float32
    key = jax.random.key(0)

    def draw(path, leaf):
        if path.endswith("/scale"):
            return jnp.ones(leaf.shape, half)
        dtype = jnp.float32 if path.startswith("lora/") else half
        return jax.jit(lambda k: 0.02 * jax.random.normal(k, leaf.shape, dtype))(jax.random.fold_in(key, len(leaves)))

    leaves: dict = {}
    for path, leaf in shapes.items():
        leaves[path] = jax.device_put(draw(path, leaf), replicated(mesh))
    tree = traverse_util.unflatten_dict(leaves, sep="/")
    trainable, frozen = {"lora": tree["lora"]}, {"params": tree["params"]}
    rate = schedule(config.optim, 1000)
    optimizer = make_optimizer(config.optim, rate, jax.tree.map(lambda _: "decay", trainable))
    state = State(jax.device_put(jnp.zeros((), jnp.int32), replicated(mesh)), trainable, optimizer.init(trainable), {})
    batch = batch_of(args, V)
    step, amount = make_train_step(workload, optimizer, rate, 0, mesh), int((batch["segment_ids"] > 0).sum())
    count = sum(leaf.size for leaf in jax.tree.leaves(frozen))
    positions = args.rows * args.length
    program = Program(step, state, frozen, batch, mesh, amount, "tokens")
    about = {"parameters": count, "positions": positions, "flops_4_parameters": 4 * count * positions}
    return program, about


def ours(args, method: str) -> Side:
    from mtlora_jax.bench.step import matmul_rate

    program, about = program_of(args, method)
    return of_jax(program, **about, matrix_flops_per_second=matmul_rate(args.dtype))


def peft(args) -> Side:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    V, D, F, layers, heads, kv_heads, tied = SHAPES[args.shape]
    shape = LlamaConfig(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=F,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(getattr(torch, args.dtype))
        model = LlamaForCausalLM(shape)
        torch.set_default_dtype(torch.float32)
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    model = get_peft_model(model, lora).train()
    if args.remat == "full":
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-4, weight_decay=0.0)
    batch = batch_of(args, V)
    labels = np.concatenate([np.full((args.rows, 1), -100), batch["targets"][:, :-1]], axis=1)

    def loss_of() -> torch.Tensor:
        inputs = {
            "input_ids": torch.from_numpy(batch["tokens"]).long().to(device),
            "labels": torch.from_numpy(labels).long().to(device),
        }
        if not args.packed:
            inputs["attention_mask"] = torch.from_numpy((batch["segment_ids"] > 0).astype(np.int64)).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=args.dtype == "bfloat16"):
            return model(**inputs).loss

    return of_torch(loss_of, optimizer, 1.0, int((batch["segment_ids"] > 0).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="smollm2", choices=SHAPES)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--cutoff", type=int, default=256)
    parser.add_argument("--packed", action="store_true")
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--remat", default="none")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", default="ours,ours_lora,peft")
    parser.add_argument("--apart", action="store_true", help="one side after the other, where they do not fit together")
    parser.add_argument("--json")
    parser.add_argument("--profile", action="store_true", help="where our step's time goes, instead")
    args = parser.parse_args()
    if args.profile:
        from mtlora_jax.bench.profile import traced
        from mtlora_jax.files import write_json

        report = traced(program_of(args, "mtl_lora")[0], args.rounds)
        print(json.dumps(report, indent=2))
        if args.json:
            write_json(args.json, report)
            print(f"wrote {args.json}", file=sys.stderr)
        return
    sides = {"ours": (ours, (args, "mtl_lora")), "ours_lora": (ours, (args, "lora")), "peft": (peft, (args,))}
    compare({name: sides[name] for name in args.sides.split(",")}, args.rounds, args.apart, args.json)


if __name__ == "__main__":
    main()
