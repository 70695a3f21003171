"""The config of an image-text run: what `get_config()` of such a recipe returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from mtlora_jax.config import Config
from mtlora_jax.errors import UserError
from mtlora_jax.image_text.bart import BartSpec
from mtlora_jax.image_text.datasets.data import Data, PublishedData
from mtlora_jax.image_text.datasets.scenes import ScenesData
from mtlora_jax.image_text.decode import Search
from mtlora_jax.image_text.layers import SITES
from mtlora_jax.image_text.tasks import TASKS
from mtlora_jax.image_text.tasks.task import Task
from mtlora_jax.image_text.visual import VisualSpec
from mtlora_jax.language.adapter import Adapter
from mtlora_jax.language.sites import check_table

__all__ = ["Data", "ImageTextConfig", "PublishedData", "ScenesData", "TaskConfig"]

PART = Literal["biases", "norms", "visual"]


@dataclass(frozen=True)
class TaskConfig:
    """One task of a run.

    Attributes:
      weight: weight of its rows in the loss.
      input_limit, target_limit: longest text and answer in tokens, both ends included; None takes the task's own, 0
        cuts nothing.
      share: rows of its batches over `train.batch_size`, where batches are of one task.
    """

    weight: float = 1.0
    input_limit: int | None = None
    target_limit: int | None = None
    share: float = 1.0


@dataclass(frozen=True)
class ImageTextConfig(Config):
    """A multi-task run of a BART that reads pictures.

    Attributes:
      init_from: where the model starts: `scenes_bart` (embedded), a Hugging Face folder or a hub name; or another run
        (`runs/x`, `runs/x@best`, `runs/x@300`), whose tasks, adapters and ranks may be others. None draws a model of
        shape `model` from the seed.
      init_only: a regex of leaves' paths; of another run only those are taken.
      model: the shape, where no pretrained model brings its own.
      tokenizer: a folder with one; empty takes the pretrained model's.
      visual: what pictures' features are, and how they become tokens.
      dropout: probability of every dropout inside the model; None takes the pretrained model's.
      adapter: the method; None trains without adapters.
      trainable: what else trains: `biases` of linear maps, `norms`, and the `visual` embedding.
      train_base: the whole model trains.
      tasks: by name; the order is the order of task ids.
      lengths: pairs of input and target lengths that batches are padded to, rising.
      batches: `mixed`, of all tasks; or `one_task` at a time in the published order, of sizes by `tasks.NAME.share`.
      temperature: of mixed batches, tasks are dealt by their size to the power of its inverse; None goes through all
        questions in turn.
      search: how answers are written.
      dtype: compute dtype; weights that train, norms, softmax and losses stay in float32.
      remat: what the backward pass computes again: see `language.sites.REMAT`.
      data: where the questions come from.
    """

    init_from: str | None = "scenes_bart"
    init_only: str = ""
    model: BartSpec = field(default_factory=BartSpec)
    tokenizer: str = ""
    visual: VisualSpec = field(default_factory=VisualSpec)
    dropout: float | None = None
    adapter: Adapter | None = None
    trainable: tuple[PART, ...] = ("biases", "norms", "visual")
    train_base: bool = False
    tasks: Mapping[str, TaskConfig] = field(default_factory=lambda: dict.fromkeys(TASKS, TaskConfig()))
    lengths: tuple[tuple[int, int], ...] = ((24, 12), (48, 40), (96, 40))
    batches: Literal["mixed", "one_task"] = "mixed"
    temperature: float | None = None
    search: Search = field(default_factory=Search)
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "full", "dots"] = "none"
    data: Data = field(default_factory=ScenesData)

    def validate(self) -> None:
        """Raises UserError for an unknown task, lengths that do not rise, or an impossible adapter or search."""
        super().validate()
        if not self.tasks:
            raise UserError(f"tasks is empty: choose from {', '.join(TASKS)}")
        for name, task in self.tasks.items():
            if name not in TASKS:
                raise UserError(f"tasks.{name} is not known: there are {', '.join(TASKS)}")
            for limit in ("input_limit", "target_limit"):
                if (value := getattr(task, limit)) is not None and value != 0 and value < 2:
                    raise UserError(f"tasks.{name}.{limit} must be 0 or at least 2, not {value}")
            if not (task.weight >= 0 and task.share > 0):
                raise UserError(f"tasks.{name}: weight must be at least 0 and share above 0")
        rising = all(
            a[0] <= b[0] and a[1] <= b[1] and a != b for a, b in zip(self.lengths, self.lengths[1:], strict=False)
        )
        if not self.lengths or not rising or min(min(pair) for pair in self.lengths) < 2:
            raise UserError(f"lengths must be rising pairs of at least 2, not {self.lengths}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UserError(f"dropout must lie in [0, 1), not {self.dropout}")
        if self.temperature is not None and self.temperature <= 0:
            raise UserError(f"temperature must be positive, not {self.temperature}")
        if problem := self.search.problems():
            raise UserError(f"search.{problem}")
        if self.adapter is None and not self.train_base and not self.trainable:
            raise UserError("nothing would train: set an adapter, trainable, or train_base")
        if self.adapter is not None:
            try:
                check_table(self.adapter.table(tuple(self.tasks)), SITES)
            except ValueError as error:
                raise UserError(f"adapter: {error}") from None
        if self.init_from is None and (problem := self.model.problems()):
            raise UserError(f"model: {problem}")

    def make_tasks(self) -> dict[str, Task]:
        """The tasks themselves, with the run's limits."""
        found = {}
        for name, of in self.tasks.items():
            limits = {limit: getattr(of, limit) for limit in ("input_limit", "target_limit")}
            found[name] = replace(TASKS[name], **{k: v for k, v in limits.items() if v is not None})
        return found
