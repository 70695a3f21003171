"""MTLoRA's training step beside a PyTorch port of it, and beside full fine-tuning of the same Swin in our own code.

    python benchmarks/vision.py [--config FILE] [--rounds N] [--json OUT] [--any.key=value ...]

Forward, backward and update, uint8 images and labels transferred inside the timing. The sides take turns, step by step,
each in a process of its own. On a GPU the port runs under autocast as `eager`, and as `compiled` by torch.compile.
`--check` compares port and ours on the same weights instead: outputs and the gradient's norm.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from side_by_side import Side, compare  # noqa: E402


def config_of(path: str, overrides: list[str]):
    from mtlora_jax.cli import load_config, override

    config = replace(load_config(path), init_from=None)
    return replace(config, dtype="bfloat16") if overrides == ["--gpu"] else override(config, overrides)


def ours(path: str, overrides: list[str], plain: bool) -> Side:
    from mtlora_jax.bench.step import Program, burst, environment, plain_of
    from mtlora_jax.engine.process import prepare

    prepare()
    config = config_of(path, overrides)
    program = Program(plain_of(config) if plain else config)
    about = {
        "flops": program.flops,
        "bytes": program.bytes,
        "compile_seconds": program.compile_seconds,
        "program_bytes": program.peak_bytes,
        **environment(),
    }
    return Side(lambda: program.run(burst()), program.amount, about)


def port(path: str, overrides: list[str], compiled: bool, plain: bool = False) -> Side:
    """The port with the config's optimizer: AdamW, clipping, decay on matrices alone."""
    import torch
    from swin_torch import Model, freeze, losses

    from mtlora_jax.bench.step import made_up
    from mtlora_jax.domains import workload_of

    config = config_of(path, overrides)
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

    def loss_of(images, labels):
        with torch.autocast(device, torch.bfloat16, enabled=half):
            outputs = network(images)
        return sum(weights[name] * value for name, value in losses(outputs, labels).items())

    def step() -> torch.Tensor:
        images = torch.from_numpy(batch["image"]).to(device)
        labels = {name: torch.from_numpy(label).to(device) for name, label in batch["labels"].items()}
        loss = loss_of(images, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.optim.clip_norm)
        optimizer.step()
        return loss

    def run() -> float:
        steps = 1 if device == "cpu" else 4
        began = time.perf_counter()
        losses = [step().detach() for _ in range(steps)]
        losses[-1].item()
        return (time.perf_counter() - began) / steps

    about = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    memory = torch.cuda.max_memory_allocated if device == "cuda" else None
    return Side(run, config.train.batch_size, about, memory)


def check(path: str, overrides: list[str]) -> dict[str, float]:
    """How far the port's outputs and gradients are from ours on the same weights, relative to their norms."""
    import jax
    import torch
    from swin_torch import Model

    from mtlora_jax.convert.reference import to_mtlora_reference
    from mtlora_jax.engine.init import draw
    from mtlora_jax.vision.workload import init, make_model, normalise

    config = config_of(path, overrides)
    model, side = make_model(config), config.backbone.image_size
    drawn = draw(lambda: init(model, side, 0), lambda path: True)
    rng = np.random.default_rng(0)
    drawn = {
        k: rng.normal(0, 0.05, v.shape).astype(np.float32) if k.startswith("lora/") else v for k, v in drawn.items()
    }
    from flax import traverse_util

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
    flat = traverse_util.flatten_dict({"lora": grads["lora"]})
    norm = sum(float((g**2).sum()) for g in flat.values()) ** 0.5
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
    parser.add_argument("--sides", default="", help="some of the sides, by name with commas")
    parser.add_argument("--gpu", action="store_true", help="bfloat16, for machines without the library of overrides")
    args, overrides = parser.parse_known_args()
    overrides = ["--gpu"] if args.gpu else overrides
    if args.check:
        print(json.dumps(check(args.config, overrides), indent=2))
        return
    common = (args.config, overrides)
    sides = {
        "ours": (ours, (*common, False)),
        "ours_plain": (ours, (*common, True)),
        "eager": (port, (*common, False)),
        "eager_plain": (port, (*common, False, True)),
    }
    if args.gpu:
        sides["compiled"] = (port, (*common, True))
    wanted = [name for name in args.sides.split(",") if name] or list(sides)
    compare({name: sides[name] for name in wanted}, args.rounds, args.apart, args.json)


if __name__ == "__main__":
    main()
