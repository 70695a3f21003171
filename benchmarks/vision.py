"""MTLoRA's training step beside a PyTorch port of it, and beside full fine-tuning of the same Swin in our own code.

    python benchmarks/vision.py [--config FILE] [--dtype bfloat16] [--sides NAMES] [--apart] [--rounds N] [--json OUT]
        [--any.key=value ...]

Forward, backward and update, uint8 images and labels transferred inside the timing. The sides take turns, step by step,
each in a process of its own. The port is `eager`, and `compiled` by torch.compile; in bfloat16 it runs under autocast.
`--check` compares port and ours on the same weights instead: outputs and the gradient's norm.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from side_by_side import Side, compare, of_jax, of_torch


def config_of(path: str, dtype: str, overrides: list[str]):
    from mtlora_jax.cli import load_config, override

    config = replace(load_config(path), init_from=None, dtype=dtype)
    # Reading overrides takes a library that an accelerator's image may lack.
    return override(config, overrides) if overrides else config


def ours(config: tuple, plain: bool) -> Side:
    from mtlora_jax.bench.step import program_of
    from mtlora_jax.engine.process import prepare

    prepare()
    program = program_of(config_of(*config), plain)
    return of_jax(program, flops=program.flops, bytes=program.bytes)


def port(config: tuple, compiled: bool, plain: bool) -> Side:
    """The port with the config's optimizer: AdamW, clipping, decay on matrices alone."""
    import torch
    from swin_torch import Model, freeze, losses

    from mtlora_jax.bench.step import made_up
    from mtlora_jax.domains import workload_of

    config = config_of(*config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = made_up(workload_of(config).abstract_batch(config.train.batch_size))
    tasks = config.make_tasks()
    torch.manual_seed(0)
    rank = 0 if plain else config.placement.shared_rank[0]
    model = Model(config.backbone, rank, {name: t.channels for name, t in tasks.items()}).to(device)
    for name, parameter in model.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    if not plain:
        freeze(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.optim.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=config.optim.lr,
        fused=device == "cuda",
    )
    weights, half = config.weights(), config.dtype == "bfloat16"
    network = torch.compile(model) if compiled else model

    def loss() -> torch.Tensor:
        images = torch.from_numpy(batch["image"]).to(device)
        labels = {name: torch.from_numpy(label).to(device) for name, label in batch["labels"].items()}
        with torch.autocast(device, torch.bfloat16, enabled=half):
            outputs = network(images)
        return sum(weights[name] * value for name, value in losses(outputs, labels).items())

    return of_torch(loss, optimizer, config.optim.clip_norm, config.train.batch_size)


def check(config: tuple) -> dict[str, float]:
    """How far the port's outputs and gradients are from ours on the same weights, relative to their norms."""
    import jax
    import torch
    from flax import traverse_util
    from swin_torch import Model

    from mtlora_jax.convert.reference import to_mtlora_reference
    from mtlora_jax.engine.init import draw
    from mtlora_jax.vision.workload import init, make_model, normalise

    config = config_of(*config)
    model, side = make_model(config), config.backbone.image_size
    drawn = draw(lambda: init(model, side, 0), lambda path: True)
    rng = np.random.default_rng(0)
    drawn = {
        k: rng.normal(0, 0.05, v.shape).astype(np.float32) if k.startswith("lora/") else v for k, v in drawn.items()
    }
    variables = traverse_util.unflatten_dict(drawn, sep="/")
    images = rng.integers(0, 255, (1, side, side, 3)).astype(np.uint8)

    def total(variables):
        outputs = model.apply(variables, normalise(images))
        return sum((value**2).mean() for value in outputs.values()), outputs

    (_, outputs), grads = jax.jit(jax.value_and_grad(total, has_aux=True, allow_int=True))(variables)
    theirs = Model(
        config.backbone,
        config.placement.shared_rank[0],
        {name: t.channels for name, t in config.make_tasks().items()},
    ).eval()
    state = {name: torch.from_numpy(np.array(v)) for name, v in to_mtlora_reference(model, variables).items()}
    theirs.load_state_dict(state)
    found = theirs(torch.from_numpy(images))
    sum((value**2).mean() for value in found.values()).backward()
    result = {}
    for name, value in outputs.items():
        other = found[name].detach().permute(0, 2, 3, 1).numpy()
        result[name] = float(np.linalg.norm(value - other) / np.linalg.norm(value))
    norm = sum(float((g**2).sum()) for g in jax.tree.leaves(grads["lora"])) ** 0.5
    adapters = [p.grad for name, p in theirs.named_parameters() if "lora_" in name and p.grad is not None]
    result["gradient"] = abs(norm - sum(float((g**2).sum()) for g in adapters) ** 0.5) / norm
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/pascal_mtlora_r64.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    parser.add_argument("--apart", action="store_true", help="one side after the other")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--sides", default="ours,ours_plain,eager,eager_plain", help="names with commas")
    args, overrides = parser.parse_known_args()
    config = args.config, args.dtype, overrides
    if args.check:
        print(json.dumps(check(config), indent=2))
        return
    sides = {
        "ours": (ours, (config, False)),
        "ours_plain": (ours, (config, True)),
        "eager": (port, (config, False, False)),
        "eager_plain": (port, (config, False, True)),
        "compiled": (port, (config, True, False)),
    }
    compare({name: sides[name] for name in args.sides.split(",")}, args.rounds, args.apart, args.json)


if __name__ == "__main__":
    main()
