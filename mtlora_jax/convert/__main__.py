"""Converts checkpoints: `python -m mtlora_jax.convert swin | reference | to-reference | merge | to-peft | ...`."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtlora_jax import mirrors
from mtlora_jax.cli import at_home, fail_cleanly
from mtlora_jax.convert.out import check_out, place_of
from mtlora_jax.errors import UserError
from mtlora_jax.weights.safetensors import metadata

EPILOG = """\
examples:
  python -m mtlora_jax.convert swin swin_tiny_patch4_window7_224.pth tiny.safetensors
  python -m mtlora_jax.convert reference ckpt_epoch_299.pth model.safetensors --cfg r64.yaml --dataset PASCALContext
  python -m mtlora_jax.convert to-reference runs/pascal_mtlora_r64 back.pth
  python -m mtlora_jax.convert merge model.safetensors folded.safetensors
  python -m mtlora_jax.convert merge runs/text_mtl_lora merged_boolq --task boolq
  python -m mtlora_jax.convert to-peft runs/text_mtl_lora peft_boolq --task boolq --base /models/llama
  python -m mtlora_jax.convert from-peft peft_boolq boolq.safetensors
Every file written as .safetensors can be a recipe's init_from. Of a run, what has moved since it was trained is said
like any key of its config: --init_from=DIR. Of a sweep, --slot=best or --slot=NAME says which run.
"""


def swin(source: str, out: Path) -> str:
    """A pretrained backbone, with the shape it says it has."""
    from mtlora_jax import schema
    from mtlora_jax.listing import listed
    from mtlora_jax.vision.swin import SwinSpec
    from mtlora_jax.vision.swin_weights import BACKBONE, DROPPABLE, from_state_dict, infer, recognise
    from mtlora_jax.weights import safetensors
    from mtlora_jax.weights.hub import read

    tensors, _ = read(source)
    spec = infer(tensors, source)
    leaves = from_state_dict(tensors, spec, source)
    about = {"source": source, "backbone": schema.encode(spec, SwinSpec)}
    safetensors.write(out, {BACKBONE + path: leaf for path, leaf in leaves.items()}, about)
    family, bare = recognise(tensors, source)
    dropped = [key for key in bare if any(re.fullmatch(pattern, key) for pattern in DROPPABLE)]
    shape = f"dim {spec.dim}, depths {spec.depths}, heads {spec.heads}, window {spec.window}"
    taken = f"{len(leaves)} leaves from {len(tensors)} tensors; dropped {listed(dropped) or 'nothing'}"
    return f"a Swin in {family.name}'s names: {shape}; {taken}"


def reference(source: str, out: Path, cfg: str | None, tasks: str | None, dataset: str | None) -> str:
    """An MTLoRA checkpoint of the reference, its tasks under this library's names."""
    import jax

    from mtlora_jax.convert import mtlora_reference
    from mtlora_jax.convert.files import write_model
    from mtlora_jax.convert.reference_config import read_yaml
    from mtlora_jax.convert.task_names import OURS, rename
    from mtlora_jax.weights.hub import read

    tensors, beside = read(source)
    config: dict[str, Any] = read_yaml(cfg) if cfg else beside.get("config") or {}
    if not config:
        raise UserError(f"{source} holds no config: give the yaml it was trained with as --cfg")
    given = {"TASKS": tasks and tasks.split(","), "DATASET": dataset}
    model, variables = mtlora_reference(tensors, config | {key: value for key, value in given.items() if value})
    model, variables = rename(model, variables, OURS)
    write_model(out, model, variables, source)
    tasks = ", ".join(f"{task} ({head.channels})" for task, head in model.heads.items())
    return f"a model of {tasks}; {len(jax.tree.leaves(variables))} leaves from {len(tensors)} tensors"


def to_reference(source: str, out: Path, step: str, arguments: Sequence[str] = ()) -> str:
    """A model or a run, as the reference would have saved it."""
    from mtlora_jax.convert import to_mtlora_reference
    from mtlora_jax.convert.files import read_model
    from mtlora_jax.convert.task_names import THEIRS, rename
    from mtlora_jax.weights import torch_pickle_write

    if out.suffix != ".pth":
        raise UserError(f"{out}: the reference reads .pth files")
    tensors = to_mtlora_reference(*rename(*read_model(source, step, arguments), THEIRS))
    torch_pickle_write.write(out, tensors)
    return f"{len(tensors)} tensors in the reference's names"


def kind_of(source: str) -> str:
    """`language`, `image_text` or `vision`: what an adapter file, a model file or the directory of a run is of."""
    if not Path(source).is_dir():
        return "language" if "adapter" in metadata(source) else "vision"
    from mtlora_jax.domains import domain_of
    from mtlora_jax.engine.run import open_run

    domain = domain_of(open_run(source).config).split(".")[1]
    return "language" if domain == "text" else domain


def to_peft(
    source: str, out: Path, task: str | None, base: str | None, step: str, arguments: Sequence[str] = ()
) -> str:
    """One task of a run's adapters, as a folder that the peft library loads."""
    if kind_of(source) == "image_text":
        from mtlora_jax.convert.image_text_files import to_peft as run

        return run(source, out, task, step, arguments)
    from mtlora_jax.convert.language_files import kept_in, read_model
    from mtlora_jax.convert.peft import export_peft

    model, variables, found = read_model(source, base, step, arguments)
    check_out(out, True, Path(found))
    export_peft(out, model, variables, task, found)
    kind = kept_in(source)
    return f"{task or 'the adapters'} for {found}{'' if kind == 'none' else f' in {kind}'}, exactly"


def to_mtl_lora_reference(source: str, out: Path, base: str | None, step: str, arguments: Sequence[str] = ()) -> str:
    """A run's adapters, as the MTL-LoRA reference would have saved them; of image and text, its whole model."""
    from mtlora_jax.convert import to_mtl_lora_reference as convert
    from mtlora_jax.convert.language_files import read_model
    from mtlora_jax.weights import torch_pickle_write

    if kind_of(source) == "image_text":
        from mtlora_jax.convert.image_text_files import to_reference as of_image_text

        if out.suffix != ".pth":
            raise UserError(f"{out}: the reference's LAST.pth is a .pth file")
        tensors = of_image_text(source, step, arguments)
    else:
        if out.suffix != ".pt":
            raise UserError(f"{out}: the reference reads .pt files")
        model, variables, _ = read_model(source, base, step, arguments)
        tensors = convert(model, variables)
    torch_pickle_write.write(out, tensors, container=None)
    return f"{len(tensors)} tensors in the reference's names"


def from_peft(source: str, out: Path, base: str | None) -> str:
    """A folder of the peft library, as the adapter file that `train.py` and `eval.py` start from."""
    from mtlora_jax.convert.language_files import adapter_file
    from mtlora_jax.convert.peft import base_of, import_peft

    base = base or base_of(source)
    return adapter_file(out, *import_peft(source, base), base, source)


def from_mtl_lora_reference(source: str, out: Path, base: str | None, hyper: str | None) -> str:
    """An adapter file of the MTL-LoRA reference, or its VL-BART's LAST.pth, likewise."""
    from mtlora_jax.convert.language import mtl_lora_reference
    from mtlora_jax.convert.language_files import adapter_file
    from mtlora_jax.files import read_json
    from mtlora_jax.weights.hub import read

    if base is None or hyper is None:
        raise UserError("the reference's files tell neither: give the base as --base, and its settings as --hyper FILE")
    told = read_json(hyper)
    if not isinstance(told, dict):
        raise UserError(f"{hyper} holds no settings by name")
    tensors, _ = read(source)
    if any(name.startswith("model.encoder.") for name in tensors):
        from mtlora_jax.convert.image_text_files import from_reference

        return from_reference(out, tensors, told, base, source)
    return adapter_file(out, *mtl_lora_reference(base, source, told), base, source)


def merge(
    source: str,
    out: Path,
    task: str | None,
    step: str,
    base: str | None,
    dtype: str | None,
    overwrite: bool,
    dequantize: bool = False,
    arguments: Sequence[str] = (),
) -> str:
    """Adapters folded into kernels where that is exact; with a task, that one as a plain Swin with its head, or as a
    Hugging Face folder."""
    kind = kind_of(source)
    if kind == "language":
        from mtlora_jax.convert.language_files import merge_task

        return merge_task(source, out, task, base, step, dtype, overwrite, dequantize, arguments)
    if dequantize:
        raise UserError("--dequantize is of language models")
    if kind == "image_text":
        from mtlora_jax.convert.image_text_files import merge_task as of_image_text

        if base is not None:
            raise UserError("--base is of language models: say where a run's base has moved with --init_from=DIR")
        return of_image_text(source, out, task, step, dtype, arguments)
    if base is not None or dtype is not None:
        raise UserError("--base and --dtype are of language models")
    from mtlora_jax.adapters import CannotMerge
    from mtlora_jax.convert.files import read_model, write_model
    from mtlora_jax.vision.fold import adapted, export_task, fold

    model, variables = read_model(source, step, arguments)
    before = adapted(model)
    try:
        model, variables = fold(model, variables) if task is None else export_task(model, variables, task)
    except CannotMerge as reason:
        raise UserError(f"{source}: {reason}") from None
    left = adapted(model)
    write_model(out, model, variables, source)
    return f"{len(before) - len(left)} of {len(before)} adapters folded into kernels, {len(left)} left"


READ_RUNS = (to_reference, merge, to_peft, to_mtl_lora_reference)
"""What reads runs takes overrides of their configs, such as `--init_from=DIR` for a base that has moved."""
STEP = {"step": "which checkpoint of a run: best, last, or a step's number"}
BASE = {"base": "the base model, if it has moved"}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m mtlora_jax.convert",
        description="Checkpoints of other libraries, in and out.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)
    options = {
        swin: ("SRC: Microsoft .pth, timm or Hugging Face .safetensors/.bin, or a hub name", {}),
        reference: (
            "SRC: a checkpoint of the MTLoRA reference",
            {
                "cfg": "its yaml config; left out, the config inside the checkpoint is taken",
                "tasks": "comma-separated; left out, those the config or the decoders name",
                "dataset": "PASCALContext or NYUD, for the number of output channels",
            },
        ),
        to_reference: ("SRC: a model file written here, or the directory of a run; OUT: .pth", STEP),
        merge: (
            "SRC: a model file written here, or the directory of a run",
            {
                "task": "export this task as a plain model",
                "dtype": "float32, bfloat16 or float16, for language models; left out, each tensor's own",
                **BASE,
                **STEP,
            },
        ),
        to_peft: (
            "SRC: the directory of a run, or a language run's adapter.safetensors; OUT: a folder",
            {
                "task": "which; left out for methods that know no tasks",
                **BASE,
                **STEP,
            },
        ),
        from_peft: ("SRC: a folder of peft; OUT: .safetensors", {"base": "the base model; left out, the folder's own"}),
        from_mtl_lora_reference: (
            "SRC: an adapter file of the reference, .pt or .safetensors, or a LAST.pth; OUT: .safetensors",
            {"base": "the base model", "hyper": "JSON of r, lora_alpha, n_tasks, n_up, tau, diagonal, target_modules"},
        ),
        to_mtl_lora_reference: (
            "SRC: the directory of a run, or a language run's adapter.safetensors; OUT: .pt, of image and text .pth",
            {**BASE, **STEP},
        ),
    }
    for run, (help_, flags) in options.items():
        command = commands.add_parser(run.__name__.replace("_", "-"), help=run.__doc__, description=run.__doc__)
        command.add_argument("source", metavar="SRC", help=help_)
        command.add_argument("out", metavar="OUT", help="file to write, here or in a store")
        for flag, flag_help in flags.items():
            choices = ("float32", "bfloat16", "float16") if flag == "dtype" else None
            default = "last" if flag == "step" else None
            command.add_argument(f"--{flag}", help=flag_help, default=default, choices=choices)
        if run is merge:
            told = "of a language model whose base is in 8 or 4 bits: fold into the floats that its codes stand for"
            command.add_argument("--dequantize", action="store_true", help=told)
        command.add_argument("--overwrite", action="store_true", help="replace weights that OUT holds already")
        command.set_defaults(run=run)
    return top


@fail_cleanly()
def main(argv: list[str]) -> None:
    known, rest = parser().parse_known_args([at_home(argument) for argument in argv])
    arguments = vars(known)
    run = arguments.pop("run")
    if rest and run not in READ_RUNS:
        raise UserError(f"unknown argument {rest[0]}; --help lists those there are")
    if rest:
        arguments["arguments"] = rest
    arguments.pop("command")
    overwrite = arguments["overwrite"] if run is merge else arguments.pop("overwrite")
    arguments["out"] = out = place_of(arguments["out"], overwrite, arguments["source"])
    from mtlora_jax.engine import process

    process.prepare()
    print(f"wrote {mirrors.home(out)}: {run(**arguments)}")


if __name__ == "__main__":
    main(sys.argv[1:])
