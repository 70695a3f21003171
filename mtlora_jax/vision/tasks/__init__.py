"""The dense tasks, one file each, by name."""

from difflib import get_close_matches
from inspect import signature

from mtlora_jax.errors import UserError
from mtlora_jax.vision.tasks import depth, edges, human_parts, normals, saliency, semseg
from mtlora_jax.vision.tasks.task import VOID, Task

__all__ = ["TASKS", "VOID", "Task", "task"]

TASKS = {
    "semseg": semseg.semseg,
    "human_parts": human_parts.human_parts,
    "saliency": saliency.saliency,
    "normals": normals.normals,
    "depth": depth.depth,
    "edges": edges.edges,
}
"""Task name -> factory."""


def task(name: str, **options) -> Task:
    """The task of that name, its factory given the options (`task("semseg", classes=40)`).

    Raises:
      UserError: there is no task of that name, or it has no such option.
    """
    if name not in TASKS:
        near = get_close_matches(name, TASKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(TASKS)}"
        raise UserError(f"there is no task {name!r}; {hint}")
    known = signature(TASKS[name]).parameters
    if strange := next((option for option in options if option not in known), None):
        raise UserError(f"task {name} has no option {strange}: it has {', '.join(known) or 'none'}")
    return TASKS[name](**options)
