"""Answers from a trained language model: `python -m mtlora_jax.generate --workdir DIR --task NAME [--new N]`.

Every line typed, or piped in, is an instruction; `\\n` in it stands for a line break.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from mtlora_jax.cli import fail_cleanly, split_flags
from mtlora_jax.engine import process
from mtlora_jax.engine.run import config_of, trained_variables
from mtlora_jax.errors import UserError
from mtlora_jax.language.decode import greedy, pad_left
from mtlora_jax.language.encode import encode_prompt
from mtlora_jax.language.rows import Row
from mtlora_jax.language.templates import TEMPLATES
from mtlora_jax.text.config import TextConfig
from mtlora_jax.text.datasets.sources import tokenizer_of
from mtlora_jax.text.workload import make_model, make_workload


def answers(workdir: Path, task: str, lines: Iterable[str], new: int = 64) -> Iterator[str]:
    """What a run's model writes after each instruction, as the given task.

    Raises:
      UserError: the workdir holds no language run, or the run has no such task.
    """
    config = config_of(workdir)
    if not isinstance(config, TextConfig):
        raise UserError(f"{workdir} holds no run of a language model: {type(config).__name__}")
    if task not in config.tasks:
        raise UserError(f"the run has no task {task}: it has {', '.join(config.tasks)}")
    model, tokenizer = make_model(config), tokenizer_of(config)
    _, variables = trained_variables(config, make_workload(config), workdir)
    task_id = np.array([list(config.tasks).index(task)], np.int32)
    for line in lines:
        row = Row(task, line.rstrip("\n").replace("\\n", "\n"), "", "", "")
        prompt = encode_prompt(row, tokenizer, TEMPLATES[config.template], evaluating=True)
        tokens, mask = pad_left([prompt], tokenizer.pad)
        out = greedy(model, variables, tokens, mask, task_id, new=new, eos=tokenizer.eos)
        yield tokenizer.decode(np.asarray(out)[0].tolist())


@fail_cleanly()
def main(argv: list[str]) -> None:
    flags, rest = split_flags(argv, ("workdir", "task", "new"), ("help",))
    if flags["help"]:
        print(__doc__)
        return
    missing = [name for name in ("workdir", "task") if not flags[name]]
    if rest or missing:
        raise UserError(f"unknown argument {rest[0]}" if rest else f"--{missing[0]} is missing; see --help")
    if flags["new"] and not (flags["new"].isdigit() and int(flags["new"])):
        raise UserError(f"--new takes a count of tokens, not {flags['new']}")
    process.prepare()
    if sys.stdin.isatty():
        print(f"instructions for {flags['task']}, one a line; Ctrl-D ends", file=sys.stderr)
    for answer in answers(Path(flags["workdir"]), flags["task"], sys.stdin, int(flags["new"] or 64)):
        print(answer, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
