"""The config of a language run: what `get_config()` of a text recipe returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from mtlora_jax.config import Config
from mtlora_jax.errors import UserError
from mtlora_jax.language.templates import TEMPLATES
from mtlora_jax.text.adapter import Adapter
from mtlora_jax.text.llama import Llama, LlamaSpec
from mtlora_jax.text.tasks import TASKS
from mtlora_jax.text.tasks.task import Task


@dataclass(frozen=True)
class MicroworldData:
    """The embedded data set: eight tasks about a made-up world.

    Attributes:
      train_length, val_length: rows of each task.
      world: seed of the world's facts; the embedded model knows world 0.
    """

    train_length: int = 4096
    val_length: int = 128
    world: int = 0


@dataclass(frozen=True)
class CommonsenseData:
    """The eight commonsense sets as LLM-Adapters lays them out; see `text.data.commonsense` for the files.

    Attributes:
      root: the folder that holds a folder for each set.
      train: the training file, `commonsense_170k_taskid.json` or the like; empty trains on each set's own file.
      val_length: rows of each test set that evaluation during training sees; 0 for all.
    """

    root: str = ""
    train: str = ""
    val_length: int = 64


@dataclass(frozen=True)
class GlueData:
    """GLUE cast to text; see `text.data.glue` for the files.

    Attributes:
      root: a folder of json files, or TensorFlow Datasets' data directory.
      val_length: rows of each validation set that evaluation during training sees; 0 for all.
    """

    root: str = ""
    val_length: int = 64


@dataclass(frozen=True)
class FileData:
    """Files of your own, JSON or JSON lines; see `text.data.read` for the forms of a row.

    Attributes:
      train, val: paths; rows say which task they are of.
      per_set: `{task: file}`, whose instructions tell the task of rows that name none.
      ambiguous: what becomes of a row whose task cannot be told.
    """

    train: str = ""
    val: str = ""
    per_set: Mapping[str, str] = field(default_factory=dict)
    ambiguous: Literal["error", "drop"] = "error"


Data = MicroworldData | CommonsenseData | GlueData | FileData


@dataclass(frozen=True)
class TaskConfig:
    """One task of a run.

    Attributes:
      weight: of its tokens in the loss.
      answers: what a task of your own is answered with; the last is the positive one. None: a number.
      metrics: its figures, the first stands for it; empty takes the task's own.
    """

    weight: float = 1.0
    answers: tuple[str, ...] = ()
    metrics: tuple[Literal["accuracy", "f1", "matthews", "pearson", "spearman"], ...] = ()


@dataclass(frozen=True)
class TextConfig(Config):
    """A multi-task run of a decoder language model.

    Attributes:
      init_from: the pretrained model: `microworld` (embedded), a Hugging Face folder, or a hub name. None draws
        a model of shape `model` from the seed.
      model: the decoder's shape, where no pretrained model brings its own.
      tokenizer: a `tokenizer.json`, a `tokenizer.model`, or a folder with one; empty takes the pretrained model's.
      adapter: the method; None trains without adapters.
      train_base: the whole model trains.
      tasks: by name; the order is the order of task ids.
      template: how a row becomes a prompt, one of `text.templates.TEMPLATES`.
      cutoff: tokens of an example, at most.
      truncation: what an example that is too long loses; see `text.encode`.
      learn_prompt: prompts are learned too, not outputs alone.
      buckets: lengths that batches are padded to; empty pads to the cutoff.
      pack: L of rows that hold many examples; 0 gives each example a row.
      temperature: tasks are drawn by `size ** (1 / temperature)`; None goes through all examples.
      dtype: compute dtype.
      remat: what the backward pass computes again; see `text.llama`.
      data: the data set.
    """

    init_from: str | None = None
    model: LlamaSpec = field(default_factory=LlamaSpec)
    tokenizer: str = ""
    adapter: Adapter | None = field(default_factory=Adapter)
    train_base: bool = False
    tasks: Mapping[str, TaskConfig] = field(default_factory=dict)
    template: str = "default"
    cutoff: int = 256
    truncation: Literal["keep_answer", "published"] = "keep_answer"
    learn_prompt: bool = False
    buckets: tuple[int, ...] = ()
    pack: int = 0
    temperature: float | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "full", "dots"] = "none"
    data: Data = field(default_factory=MicroworldData)

    def validate(self) -> None:
        """Raises UserError for an unknown task or template, lengths that do not fit, or an impossible adapter."""
        super().validate()
        if not self.tasks:
            raise UserError(f"tasks is empty: choose from {', '.join(TASKS)}")
        self.task_objects()
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
        if self.adapter is None and not self.train_base:
            raise UserError("nothing would train: set an adapter, or train_base")
        if self.adapter is not None:
            try:
                Llama(self.model, self.adapter.table(tuple(self.tasks))).check_table()
            except ValueError as error:
                raise UserError(f"adapter: {error}") from None
        if self.init_from is None and (problem := self.model.problems()):
            raise UserError(f"model: {problem}")

    def task_objects(self) -> dict[str, Task]:
        """The tasks themselves. Raises UserError for one that is not known and says neither answers nor metrics."""
        found = {}
        for name, task in self.tasks.items():
            own = {key: value for key in ("answers", "metrics") if (value := getattr(task, key))}
            if name not in TASKS and not own:
                known = ", ".join(TASKS)
                raise UserError(
                    f"tasks.{name} is not known ({known}): say its answers, or its metrics if it is a number"
                )
            found[name] = replace(TASKS.get(name) or Task(name, ()), **own)
        return found
