"""Answers from a trained language model.

python -m mtlora_jax.generate --workdir DIR --task NAME [--max_new_tokens N] [--step best|last|N]

Every line typed, or piped in, is an instruction; `\\n` in it stands for a line break.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from mtlora_jax.cli import fail_cleanly, split_flags
from mtlora_jax.engine import process
from mtlora_jax.engine.run import Step, open_run
from mtlora_jax.errors import UserError
from mtlora_jax.language.decode import greedy, pad_left
from mtlora_jax.language.encode import encode_prompt
from mtlora_jax.language.rows import Row
from mtlora_jax.language.templates import TEMPLATES
from mtlora_jax.text.config import TextConfig
from mtlora_jax.text.examples import tokenizer_of
from mtlora_jax.text.workload import make_model


def answers(
    workdir: Path, task: str, lines: Iterable[str], max_new_tokens: int = 64, step: Step = "last"
) -> Iterator[str]:
    """What a run's model writes after each instruction, as the given task.

    Raises:
      UserError: the workdir holds no language run, or the run has no such task.
    """
    run = open_run(workdir)
    config = run.config
    if not isinstance(config, TextConfig):
        raise UserError(f"{workdir} holds no run of a language model: {type(config).__name__}")
    if task not in config.tasks:
        raise UserError(f"the run has no task {task}: it has {', '.join(config.tasks)}")
    model, tokenizer, variables = make_model(config), tokenizer_of(config), run.variables(step)
    task_id = np.array([list(config.tasks).index(task)], np.int32)
    for line in lines:
        row = Row(task, line.rstrip("\n").replace("\\n", "\n"), "", "", "")
        prompt = encode_prompt(row, tokenizer, TEMPLATES[config.template], evaluating=True)
        tokens, mask = pad_left([prompt], tokenizer.pad)
        out = greedy(model, variables, tokens, mask, task_id, max_new_tokens=max_new_tokens, eos=tokenizer.eos)
        yield tokenizer.decode(np.asarray(out)[0].tolist())


@fail_cleanly()
def main(argv: list[str]) -> None:
    flags, rest = split_flags(argv, ("workdir", "task", "max_new_tokens", "step"), ("help",))
    if flags["help"]:
        print(__doc__)
        return
    missing = [name for name in ("workdir", "task") if not flags[name]]
    if rest or missing:
        raise UserError(f"unknown argument {rest[0]}" if rest else f"--{missing[0]} is missing; see --help")
    count = flags["max_new_tokens"] or "64"
    if not (count.isdigit() and int(count)):
        raise UserError(f"--max_new_tokens takes a count of tokens, not {count}")
    process.prepare()
    if sys.stdin.isatty():
        print(f"instructions for {flags['task']}, one a line; Ctrl-D ends", file=sys.stderr)
    step = flags["step"] or "last"
    for answer in answers(Path(flags["workdir"]), flags["task"], sys.stdin, int(count), step):
        print(answer, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
