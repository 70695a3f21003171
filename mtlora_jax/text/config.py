"""The config of a language run: what `get_config()` of a text recipe returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from mtlora_jax.adapters import quantized
from mtlora_jax.config import Config
from mtlora_jax.errors import UserError
from mtlora_jax.language.adapter import Adapter
from mtlora_jax.language.templates import TEMPLATES
from mtlora_jax.text.datasets.commonsense import CommonsenseData
from mtlora_jax.text.datasets.data import Data
from mtlora_jax.text.datasets.files import FileData
from mtlora_jax.text.datasets.glue import GlueData
from mtlora_jax.text.datasets.microworld import MicroworldData
from mtlora_jax.text.datasets.reading import ReadingData
from mtlora_jax.text.llama import Llama, LlamaSpec
from mtlora_jax.text.tasks import TASKS
from mtlora_jax.text.tasks.metrics import METRICS
from mtlora_jax.text.tasks.task import Task

__all__ = [
    "CommonsenseData",
    "Data",
    "FileData",
    "GlueData",
    "MicroworldData",
    "ReadingData",
    "TaskConfig",
    "TextConfig",
]


@dataclass(frozen=True)
class TaskConfig:
    """One task of a run.

    Attributes:
      weight: weight of its tokens in the loss.
      answers: what a task of your own is answered with; the last is the positive one. None: a number. Sets that are
        made here say it themselves.
      metrics: its metrics, names in `text.tasks.metrics.METRICS`, the first of which stands for it; empty takes the
        task's own.
      extracted: which answer in a text counts, `first` or `last`; empty takes the task's own: the first word, the last
        number.
      max_new_tokens: longest answer that scoring decodes; 0 takes the task's own, 32 as published. Sets whose outputs
        reason first, such as the arithmetic ones of LLM-Adapters, need more.
    """

    weight: float = 1.0
    answers: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    extracted: Literal["", "first", "last"] = ""
    max_new_tokens: int = 0


@dataclass(frozen=True)
class TextConfig(Config):
    """A multi-task run of a decoder language model.

    Attributes:
      init_from: where the model starts: `microworld` (embedded), a Hugging Face folder or a hub name; another run
        (`runs/x`, `runs/x@best`, `runs/x@300`), whose tasks, adapters and ranks may be others; or an
        `adapter.safetensors`. None draws a model of shape `model` from the seed.
      init_only: a regex of leaves' paths; of another run only those are taken.
      model: the decoder's shape, where no pretrained model brings its own.
      tokenizer: a `tokenizer.json`, a `tokenizer.model`, or a folder with one; empty takes the pretrained model's.
      adapter: the method; None trains without adapters.
      train_base: the whole model trains.
      tasks: by name; the order is the order of task ids.
      template: how a row becomes a prompt, one of `text.templates.TEMPLATES`.
      chat_template: chats are written as the tokenizer's own template says, where it has one.
      cutoff: tokens of an example, at most.
      truncation: what an example that is too long loses; see `text.encode`.
      loss_on_prompt: prompts count in the loss too, not outputs alone.
      buckets: lengths that batches are padded to; empty pads to the cutoff.
      pack: L of rows that hold many examples; 0 gives each example a row.
      temperature: tasks are drawn by `size ** (1 / temperature)`; None goes through all examples.
      plain_text: a file of plain text, whose perplexity tells what is forgotten; empty takes the data set's own.
      plain_length: how many of its paragraphs are read; 0 measures nothing.
      dtype: compute dtype.
      quantize: the base's projections are kept in 8 or 4 bits; see `adapters.quantized`.
      remat: what the backward pass computes again; see `language.sites.REMAT`.
      data: the data set.
    """

    init_from: str | None = None
    init_only: str = ""
    model: LlamaSpec = field(default_factory=LlamaSpec)
    tokenizer: str = ""
    adapter: Adapter | None = field(default_factory=Adapter)
    train_base: bool = False
    tasks: Mapping[str, TaskConfig] = field(default_factory=dict)
    template: str = "default"
    chat_template: bool = True
    cutoff: int = 256
    truncation: Literal["keep_answer", "published"] = "keep_answer"
    loss_on_prompt: bool = False
    buckets: tuple[int, ...] = ()
    pack: int = 0
    temperature: float | None = None
    plain_text: str = ""
    plain_length: int = 16
    dtype: Literal["float32", "bfloat16"] = "float32"
    quantize: quantized.Kind = "none"
    remat: Literal["none", "full", "dots"] = "none"
    data: Data = field(default_factory=MicroworldData)

    def validate(self) -> None:
        """Raises UserError for an unknown task or template, lengths that do not fit, or an impossible adapter."""
        super().validate()
        if not self.tasks:
            raise UserError(f"tasks is empty: choose from {', '.join(TASKS)}")
        self.make_tasks()
        if self.template not in TEMPLATES:
            raise UserError(f"template must be one of {', '.join(TEMPLATES)}, not {self.template!r}")
        if self.cutoff < 2:
            raise UserError(f"cutoff must be at least 2, not {self.cutoff}")
        if self.pack and self.pack < self.cutoff:
            raise UserError(
                f"pack = {self.pack} is shorter than cutoff = {self.cutoff}: no row would hold every example"
            )
        if list(self.buckets) != sorted(set(self.buckets)) or (self.buckets and self.buckets[-1] < self.cutoff):
            raise UserError(f"buckets must rise to cutoff = {self.cutoff} or beyond, not {self.buckets}")
        if self.temperature is not None and self.temperature <= 0:
            raise UserError(f"temperature must be positive, not {self.temperature}")
        if self.plain_length < 0:
            raise UserError(f"plain_length must be at least 0, not {self.plain_length}")
        if self.adapter is None and not self.train_base:
            raise UserError("nothing would train: set an adapter, or train_base")
        if self.quantize != "none" and self.train_base:
            raise UserError(f"a base that trains (train_base) cannot be kept in {self.quantize} (quantize)")
        if self.adapter is not None:
            try:
                Llama(self.model, self.adapter.table(tuple(self.tasks))).check_table()
            except ValueError as error:
                raise UserError(f"adapter: {error}") from None
        if self.init_from is None and (problem := self.model.problems()):
            raise UserError(f"model: {problem}")

    def make_tasks(self) -> dict[str, Task]:
        """The tasks themselves. Raises UserError for one that is not known and says neither answers nor metrics."""
        found = {}
        for name, task in self.tasks.items():
            keys = ("answers", "metrics", "extracted", "max_new_tokens")
            own = {key: value for key in keys if (value := getattr(task, key))}
            if answers := tuple(self.data.answers(name)):
                own = {"answers": answers, **own}
            if task.max_new_tokens < 0:
                raise UserError(f"tasks.{name}.max_new_tokens must be at least 0, not {task.max_new_tokens}")
            if name not in TASKS and not own.keys() & {"answers", "metrics"}:
                known = ", ".join(TASKS)
                raise UserError(
                    f"tasks.{name} is not known ({known}): say its answers, or its metrics if it is a number"
                )
            if unknown := [metric for metric in task.metrics if metric not in METRICS]:
                raise UserError(f"tasks.{name}.metrics: there is no {unknown[0]}, only {', '.join(METRICS)}")
            found[name] = replace(TASKS.get(name) or Task(name, ()), **own)
        return found
