"""What a run says while it runs: `metrics.jsonl`, TensorBoard, and a progress bar or plain lines.

One process writes. A record is `{"step": n, "kind": "train" | "eval", ...flat metrics...}`: training records
hold `loss`, `loss/<task>`, what else a step reports, and the `ids` of its examples, evaluations `<task>/<metric>`.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from mtlora_jax.engine.board import Board
from mtlora_jax.files import finite, write_text

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class Log:
    """A context that writes a run's metrics below its workdir.

    Args:
      workdir: exists.
      steps: updates of the whole run.
      first: updates already done; records of later steps, which this process repeats, are cut. Below 0: of all steps.
      every: steps between training records; evaluations are always recorded.
      active: whether this process is the one that writes; by default JAX's process 0.
      stream: where progress goes; a bar on a terminal, lines elsewhere.
    """

    def __init__(
        self,
        workdir: Path,
        steps: int,
        first: int = 0,
        every: int = 1,
        active: bool | None = None,
        stream: TextIO | None = None,
    ):
        if active is None:
            import jax

            active = jax.process_index() == 0
        self._active, self._every = active, every
        self._progress = Progress(steps, max(first, 0), stream or sys.stderr) if active else None
        self._board = None
        if active:
            cut(workdir / METRICS, first)
            self._file = (workdir / METRICS).open("a")
            self._board = _tensorboard(workdir / TENSORBOARD, max(first, 0), self._progress.say)

    def step(self, step: int, values: Mapping[str, float], ids: Sequence = ()) -> None:
        """A training step's scalars, and which examples it saw; shown, and recorded every so often."""
        if self._active:
            recorded = step % self._every == 0 or step == self._progress.steps
            if recorded:
                self._record(step, "train", values, {"ids": ids} if len(ids) else None)
            self._progress.step(step, values["loss"], values.get("lr"), recorded)

    def evaluation(self, step: int, metrics: Mapping[str, Mapping[str, float]]) -> None:
        """An evaluation's metrics by task."""
        if self._active:
            flat = {f"{task}/{name}": v for task, values in metrics.items() for name, v in values.items()}
            self._record(step, "eval", flat)
            scores = "  ".join(f"{task} {values['loss']:.4g}" for task, values in metrics.items() if "loss" in values)
            self.say(f"evaluation at step {step}: loss  {scores}")

    def health(self, step: int, values: Mapping[str, float]) -> None:
        """How long steps take and what they wait for; see `pace.Pace`."""
        if self._active:
            self._record(step, "health", values)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """A uint8 `[H, W, 3]` picture, for TensorBoard."""
        if self._board:
            self._board.picture(name, picture, step)

    def say(self, line: str) -> None:
        """A line for the reader, without tearing the progress bar."""
        if self._active:
            self._progress.say(line)

    def _record(self, step: int, kind: str, values: Mapping[str, float], more: Mapping | None = None) -> None:
        numbers = {name: float(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "kind": kind, **finite(numbers), **(more or {})}) + "\n")
        self._file.flush()
        if self._board:
            for name, value in numbers.items():
                self._board.scalar(f"{kind}/{name}", value, step)
            self._board.flush()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception) -> None:
        if self._active:
            self._progress.close()
            with contextlib.suppress(OSError):  # a full disk has been told of already
                self._file.close()
                if self._board:
                    self._board.close()


class Progress:
    """How far, how fast and how long still: a bar on a terminal, a line per record elsewhere.

    The rate leaves out the first step, which compiles.
    """

    def __init__(self, steps: int, first: int, stream: TextIO):
        self.steps = steps
        self._stream = stream
        self._started: tuple[int, float] | None = None
        self._bar = _bar(steps, first, stream) if stream.isatty() else None

    def step(self, step: int, loss: float, lr: float | None, line: bool) -> None:
        values = f"loss {loss:.4g}" + ("" if lr is None else f"  lr {lr:.3g}")
        if self._bar is not None:
            self._bar.set_postfix_str(values, refresh=False)
            self._bar.update(step - self._bar.n)
        elif line:
            self.say(f"step {step}/{self.steps}  {values}{self._pace(step)}")
        self._started = self._started or (step, time.monotonic())

    def _pace(self, step: int) -> str:
        if self._started is None or (elapsed := time.monotonic() - self._started[1]) <= 0:
            return ""
        rate = (step - self._started[0]) / elapsed
        return f"  {rate:.3g} steps/s  {clock((self.steps - step) / rate)} left"

    def say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def clock(seconds: float) -> str:
    """`h:mm:ss`, without hours where there are none."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _bar(steps: int, first: int, stream: TextIO) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=steps, initial=first, file=stream, unit="step", dynamic_ncols=True)


def _tensorboard(directory: Path, first: int, say) -> Board | None:
    try:
        return Board(directory, first)
    except ImportError:
        say("no TensorBoard files: pip install tensorboardX to have them")
        return None


def read(path: Path) -> Iterator[dict]:
    """The records of a metrics file; a line that a dying process left unfinished is passed over."""
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                if isinstance(record := json.loads(line), dict):
                    yield record


def cut(path: Path, step: int) -> None:
    """Drops records after a step, all or nothing; touches no file that needs no cutting."""
    if path.exists():
        text = "".join(json.dumps(record) + "\n" for record in read(path) if record["step"] <= step)
        if text != path.read_text():
            write_text(path, text)
