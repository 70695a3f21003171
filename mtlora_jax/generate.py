"""Answers from a trained language model.

python -m mtlora_jax.generate --workdir DIR --task NAME [--max_new_tokens N] [--step best|last|N] [--form FORM]

Every line typed, or piped in, is a question in the form that the task was trained in: an instruction, a raw prompt, a
user's turn of a chat, or the two texts of a pair; `--form instruction|prompt|chat|pair` says another. `\\n` in a line
stands for a line break. What has moved since training is said like any key of the config: `--init_from=DIR`. Of a
sweep, `--slot best` or `--slot NAME` says which run.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import get_args, get_type_hints

import numpy as np

from mtlora_jax.cli import fail_cleanly, open_trained, split_flags
from mtlora_jax.engine import process, results
from mtlora_jax.engine.run import Run, Step
from mtlora_jax.errors import UserError
from mtlora_jax.language.chat import plain
from mtlora_jax.language.decode import greedy, pad_left
from mtlora_jax.language.encode import encode_prompt
from mtlora_jax.language.rows import Row
from mtlora_jax.language.templates import TEMPLATES
from mtlora_jax.text.config import TextConfig
from mtlora_jax.text.examples import stops_of, tokenizer_of
from mtlora_jax.text.workload import make_model


def question(task: str, line: str, form: str) -> Row:
    """A line as the row that it asks, in a form of `language.rows`."""
    if form == "chat":
        messages = (("user", line),)
        return Row(task, line, "", "", "", prompt=plain(messages), messages=messages)
    asked = f"{task}: {line}" if form == "pair" else line
    return Row(task, asked, "", "", "", prompt=line if form == "prompt" else None)


def answers(
    run: Run, task: str, lines: Iterable[str], max_new_tokens: int = 64, step: Step = "last", form: str = ""
) -> Iterator[str]:
    """What a run's model writes after each question, as the given task.

    Args:
      form: in which form the lines are asked; empty takes the one that the task was trained in.

    Raises:
      UserError: the workdir holds no language run, or the run has no such task.
    """
    config = run.config
    if not isinstance(config, TextConfig):
        raise UserError(f"{run} holds no run of a language model: {type(config).__name__}")
    if task not in config.tasks:
        raise UserError(f"the run has no task {task}: it has {', '.join(config.tasks)}")
    form = form or results.read(run.workdir).get("about", {}).get("forms", {}).get(task, "instruction")
    if form not in (known := get_args(get_type_hints(Row)["form"])):
        raise UserError(f"--form takes {', '.join(known)}, not {form}")
    model, tokenizer, variables = make_model(config), tokenizer_of(config), run.variables(step)
    task_id = np.array([list(config.tasks).index(task)], np.int32)
    ends = {"eos": tokenizer.eos, "stops": stops_of(config)}
    for line in lines:
        row = question(task, line.rstrip("\n").replace("\\n", "\n"), form)
        prompt = encode_prompt(row, tokenizer, TEMPLATES[config.template], evaluating=True)
        tokens, mask = pad_left([prompt], tokenizer.pad)
        out = greedy(model, variables, tokens, mask, task_id, max_new_tokens=max_new_tokens, **ends)
        yield tokenizer.decode(np.asarray(out)[0].tolist())


@fail_cleanly()
def main(argv: list[str]) -> None:
    flags, rest = split_flags(argv, ("workdir", "task", "max_new_tokens", "step", "form"), ("help",))
    if flags["help"]:
        print(__doc__)
        return
    if missing := [name for name in ("workdir", "task") if not flags[name]]:
        raise UserError(f"--{missing[0]} is missing; see --help")
    count = flags["max_new_tokens"] or "64"
    if not (count.isdigit() and int(count)):
        raise UserError(f"--max_new_tokens takes a count of tokens, not {count}")
    process.prepare()
    if sys.stdin.isatty():
        print(f"questions for {flags['task']}, one a line; Ctrl-D ends", file=sys.stderr)
    run, step, form = open_trained(flags["workdir"], rest), flags["step"] or "last", flags["form"] or ""
    for answer in answers(run, flags["task"], sys.stdin, int(count), step, form):
        print(answer, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
