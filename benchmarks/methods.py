"""MTL-LoRA beside LoRA and its siblings, each at its own best learning rate: the paper's claim, tested.

    python benchmarks/methods.py microworld OUT
    python benchmarks/methods.py smollm2 OUT --data FOLDER       (its train.jsonl, val.jsonl and test.jsonl)

Every method is trained at every rate with every seed (`--rates`, `--seeds`), all on the same rows. Its rate is the one
with the best mean on validation rows; with that rate all its seeds answer the test rows, which nothing was chosen by.
`--choosing 1` lets the first seed choose the rate alone; the others then train with that rate only.
Differences to LoRA come with 95% intervals: questions are drawn again, the same for both (paired bootstrap, 10,000
times). Finished sweeps stay in OUT, and the same command goes on; a table of fewer methods than asked for says so.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs.text_mtl_lora import get_config as microworld
from configs.text_smollm2 import get_config as smollm2
from mtlora_jax.cli import fail_cleanly
from mtlora_jax.domains import workload_of
from mtlora_jax.engine import process
from mtlora_jax.engine.loop import train
from mtlora_jax.engine.run import evaluate_untrained, open_run
from mtlora_jax.engine.sweep import SCORE, slots_of
from mtlora_jax.files import read_json, write_json, write_text
from mtlora_jax.listing import text_table
from mtlora_jax.text.config import FileData, TaskConfig, TextConfig
from mtlora_jax.text.datasets.microworld import FAMILIES, World, rows

METHODS: Mapping[str, Mapping[str, Any]] = {
    "lora": {"method": "lora"},
    "lora_matched": {"method": "lora"},
    "multilora": {"method": "multilora"},
    "moelora": {"method": "moelora"},
    "mtl_lora_n1": {"method": "mtl_lora", "up_projections": 1},
    "mtl_lora_n3": {"method": "mtl_lora", "up_projections": 3},
    "mtl_lora_n3_diagonal": {"method": "mtl_lora", "up_projections": 3, "diagonal": True},
}
"""What changes in the adapter. `lora_matched` has the rank by which it has as many parameters as `mtl_lora_n3`."""
SINGLE = "single_task_lora"
"""A LoRA for every task, which sees as many of the task's rows as the others do."""
UNTRAINED: Mapping[str, Any] = {"rate": "-", "validation": {}, "parameters": 0, "seconds": 0.0}
LONGEST = 8
"""Tokens of an answer in rows of one's own, at most."""
SPLITS = ("train", "val", "test")
DRAWS = 10_000
Right = dict[str, list[str]]
"""Which questions were answered right: by task, for every seed a string of 0 and 1, a mark for each question."""


def parameters(config: TextConfig) -> int:
    leaves = jax.tree.leaves(jax.eval_shape(lambda: workload_of(config).init(0))["lora"])
    return sum(leaf.size for leaf in leaves)


def adapted(base: TextConfig, name: str) -> TextConfig:
    """The base config with a method's adapter."""

    def of(**changes: Any) -> TextConfig:
        return replace(base, adapter=replace(base.adapter, **changes))

    if name != "lora_matched":
        return of(**METHODS[name])
    wanted, one = parameters(adapted(base, "mtl_lora_n3")), parameters(of(method="lora", rank=1))
    rank = max(round(wanted / one), 1)
    return of(method="lora", rank=rank, alpha=base.adapter.scale * rank)


def write_microworld(folder: Path, counts: Mapping[str, int]) -> None:
    """Rows of the micro-world as files. A question may be asked in validation and in testing with other options, and
    never in training."""
    for split, count in counts.items():
        held_out = split != "train"
        lines = []
        for task in FAMILIES:
            made = rows(task, "val" if held_out else "train", count * (2 if held_out else 1), World())
            for row in made[split == "test" :: 2] if held_out else made:
                record = {"task": task, "instruction": row.instruction, "output": row.output, "answer": row.answer}
                lines.append(json.dumps(record) + "\n")
        write_text(folder / f"{split}.jsonl", "".join(lines))


def write_drawn(folder: Path, source: Path, counts: Mapping[str, int]) -> None:
    """The rows of `source`: those for training all, of the others as many of each task, drawn at random."""
    rng = np.random.default_rng(0)
    for split in SPLITS:
        lines = (source / f"{split}.jsonl").read_text().splitlines(keepends=True)
        if split in counts:
            by_task: dict[str, list[str]] = {}
            for line in rng.permutation(lines).tolist():
                by_task.setdefault(json.loads(line)["task"], []).append(line)
            lines = [line for task in sorted(by_task) for line in by_task[task][: counts[split]]]
        write_text(folder / f"{split}.jsonl", "".join(lines))


def base_config(args: argparse.Namespace) -> TextConfig:
    """What all methods share."""
    folder, counts = args.out / "data", {"val": args.val, "test": args.test}
    data = FileData(train=str(folder / "train.jsonl"), val=str(folder / "val.jsonl"))
    if not (folder / "test.jsonl").exists():
        folder.mkdir(parents=True, exist_ok=True)
        if args.what == "microworld":
            write_microworld(folder, {"train": 2048, **counts})
        else:
            write_drawn(folder, Path(args.data), counts)
    if args.what == "microworld":
        tasks = {name: TaskConfig(answers=tuple(family.answers)) for name, family in FAMILIES.items()}
        config = replace(microworld(), tasks=tasks, data=data)
    else:
        tasks = {
            task: TaskConfig(answers=tuple(sorted(of)), max_new_tokens=LONGEST)
            for task, of in outputs(folder / "train.jsonl").items()
        }
        config = replace(smollm2(), tasks=tasks, data=data, cutoff=args.cutoff, pack=args.pack, sweep={})
    settings = replace(config.train, steps=args.steps, batch_size=args.batch_size, eval_every=args.steps)
    optim = replace(config.optim, warmup_steps=max(args.steps // 20, 1))
    return replace(config, train=settings, optim=optim, plain_length=0)


def outputs(path: Path) -> dict[str, Counter[str]]:
    """How often the rows of a file are answered with what, by task."""
    found: dict[str, Counter[str]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["task"], Counter())[row["output"]] += 1
    return found


def constant(base: TextConfig, test: Path) -> Right:
    """What is right if every answer is the one that a task's training rows have most often."""
    often = {task: of.most_common(1)[0][0] for task, of in outputs(Path(base.data.train)).items()}
    right = dict.fromkeys(often, "")
    for line in test.read_text().splitlines():
        row = json.loads(line)
        right[row["task"]] += "01"[row["output"] == often[row["task"]]]
    return {task: [of] for task, of in right.items()}


def trained(config: TextConfig, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """The best rate of a sweep, and which test questions every seed answers right with it, `right`."""
    config = replace(config, sweep={"optim.lr": tuple(asked.rates), "seed": tuple(range(asked.choosing))})
    results = train(config, workload_of(config), folder)
    scores: dict[float, list[float]] = {}
    for slot in slots_of(config):
        scores.setdefault(slot.config.optim.lr, []).append(results["last"]["metrics"][slot.name][SCORE])
    best = max(scores, key=lambda rate: np.mean(scores[rate]))
    right = tested(config, folder, best)
    if asked.choosing < asked.seeds:
        others = replace(config, sweep={"optim.lr": (best,), "seed": tuple(range(asked.choosing, asked.seeds))})
        train(others, workload_of(others), folder / "others")
        for task, of in tested(others, folder / "others", best).items():
            right[task] += of
    validation = {f"lr={rate:g}": float(np.mean(of)) for rate, of in scores.items()}
    return {"rate": f"lr={best:g}", "validation": validation, "right": right}


def tested(config: TextConfig, folder: Path, rate: float) -> Right:
    """What the slots of a trained sweep that had a rate answer right."""
    run = open_run(folder)
    test = str(Path(run.config.data.val).with_name("test.jsonl"))
    run = run.changed(replace(run.config, data=replace(run.config.data, val=test)))
    right: Right = {}
    for slot in slots_of(config):
        if slot.config.optim.lr == rate:
            answers = folder / "test" / slot.name
            if not answers.is_dir():
                run.slot(slot.name).evaluate("last", "generate", answers)
            for task, of in read_answers(answers).items():
                right.setdefault(task, []).append(of)
    return right


def read_answers(folder: Path) -> dict[str, str]:
    lines = {path.stem: map(json.loads, path.read_text().splitlines()) for path in sorted(folder.glob("*.jsonl"))}
    return {task: "".join("01"[row["strict"] == row["answer"]] for row in of) for task, of in lines.items()}


def marks(of: Sequence[str]) -> np.ndarray:
    """`[seeds, rows]`, 0 and 1."""
    return np.array([[int(mark) for mark in seed] for seed in of])


def accuracy(right: Right) -> np.ndarray:
    """The mean over tasks of every seed's accuracy."""
    return np.mean([marks(of).mean(1) for of in right.values()], axis=0)


def interval(a: Right, b: Right, seed: int = 0) -> tuple[float, float, float]:
    """The difference of two methods' accuracies, mean over seeds and tasks, and its 95% interval over questions."""
    rng, total, draws = np.random.default_rng(seed), 0.0, np.zeros(DRAWS)
    for task in a:
        difference = marks(a[task]).mean(0) - marks(b[task]).mean(0)
        total += difference.mean() / len(a)
        picked = rng.integers(len(difference), size=(DRAWS, len(difference)))
        draws += difference[picked].mean(axis=1) / len(a)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(total), float(low), float(high)


def table(found: Mapping[str, Any], wanted: Sequence[str]) -> str:
    tasks = list(next(iter(found.values()))["right"])
    header = ("method", "parameters", "rate", *tasks, "average", "± seeds", "- LoRA", "95% interval")
    lines = []
    for name, of in found.items():
        scores = accuracy(of["right"])
        against = ("", "")
        if "lora" in found and name != "lora":
            difference, low, high = interval(of["right"], found["lora"]["right"])
            against = f"{difference:+.3f}", f"{low:+.3f} to {high:+.3f}"
        each = [f"{marks(of['right'][task]).mean():.3f}" for task in tasks]
        deviation = f"{scores.std(ddof=1):.3f}" if len(scores) > 1 else "-"
        lines.append((name, f"{of['parameters']:,}", of["rate"], *each, f"{scores.mean():.3f}", deviation, *against))
    lacking = [name for name in wanted if name not in found]
    note = [f"partial: {', '.join(lacking)} are still to come"] if lacking else []
    return "\n".join([text_table(header, lines), *note])


def single_task(base: TextConfig, out: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """LoRA for each task alone: its share of the batch, its own rate."""
    parts, size = {}, 0
    for task, told in base.tasks.items():
        config = adapted(replace(base, name=task, tasks={task: told}), "lora")
        share = max(base.train.batch_size // len(base.tasks), 1)
        config = replace(config, train=replace(config.train, batch_size=share))
        parts[task], size = trained(config, out / SINGLE / task, asked), size + parameters(config)
    right = {task: of["right"][task] for task, of in parts.items()}
    return {"rate": "each its own", "validation": {}, "right": right, "parameters": size}


@fail_cleanly()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("microworld", "smollm2"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--methods", nargs="*", default=[*METHODS, SINGLE])
    parser.add_argument("--rates", nargs="*", type=float, default=[5e-4, 1e-3, 2e-3])
    parser.add_argument("--choosing", type=int, help="how many of the seeds choose the rate; all unless said")
    counts = {"seeds": 3, "steps": 200, "batch_size": 32, "val": 64, "test": 256, "cutoff": 128, "pack": 0}
    for name, value in counts.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    args.choosing = args.choosing or args.seeds
    lacking = [split for split in SPLITS if not Path(args.data or "", f"{split}.jsonl").is_file()]
    if args.what == "microworld" and args.data:
        parser.error("microworld makes its own rows: leave --data out")
    if args.what == "smollm2" and lacking:
        parser.error(f"smollm2 needs --data FOLDER with {' and '.join(f'{split}.jsonl' for split in lacking)}")
    process.prepare()
    base = base_config(args)
    test = Path(base.data.val).with_name("test.jsonl")
    path = args.out / "methods.json"
    kept = read_json(path) if path.exists() else {}
    asked = {key: value for key, value in vars(args).items() if key not in ("out", "methods", "data")}
    if kept and kept["asked"] != asked:
        raise SystemExit(f"error: {path} was made with {kept['asked']}: give another OUT")
    found = kept.get("found", {})
    if "base" not in found:
        answers = args.out / "base"
        untrained = replace(adapted(base, "lora"), sweep={}, data=replace(base.data, val=str(test)))
        evaluate_untrained(untrained, "generate", answers)
        right = {task: [of] for task, of in read_answers(answers).items()}
        found["constant"] = {**UNTRAINED, "right": constant(base, test)}
        found["base"] = {**UNTRAINED, "right": right}
    for number, name in enumerate(args.methods, 1):
        if name in found:
            continue
        print(f"\n{number} of {len(args.methods)}: {name}", file=sys.stderr)
        begun = time.monotonic()
        if name == SINGLE:
            done = single_task(base, args.out, args)
        else:
            config = replace(adapted(base, name), name=name)
            done = {**trained(config, args.out / name, args), "parameters": parameters(config)}
        found[name] = {**done, "seconds": round(time.monotonic() - begun, 1)}
        write_json(path, {"asked": asked, "device": jax.devices()[0].device_kind, "found": found})
    said = table(found, args.methods)
    write_text(args.out / "methods.txt", said + "\n")
    minutes = sum(of["seconds"] for of in found.values()) / 60
    print(f"\n{said}\n\n{minutes:.0f} minutes; wrote methods.json and methods.txt to {args.out}")


if __name__ == "__main__":
    main()
