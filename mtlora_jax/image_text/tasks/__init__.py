"""The image-text tasks by name, in the order of the published task ids 0 to 3."""

from collections.abc import Mapping

from mtlora_jax.image_text.tasks import caption, gqa, nlvr, vqa
from mtlora_jax.image_text.tasks.task import Task

TASKS: Mapping[str, Task] = {of.TASK.name: of.TASK for of in (vqa, gqa, nlvr, caption)}
PREFIXES: Mapping[str, str] = {name: task.prefix for name, task in TASKS.items()}
