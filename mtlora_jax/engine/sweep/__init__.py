"""Many runs over one frozen base as one: a workload whose tasks are the runs, its slots.

A slot is a run of its own: its seed, its batches, its adapters, its optimizer; what it ends with, the single run of its
config ends with too, to rounding. Slots whose programs are alike lie along a leading axis and are computed together
(`jax.vmap`); others, such as those of another rank or method, beside them in the same step. To the engine it is one
workload: one loop, one checkpoint, one work directory.
"""

from mtlora_jax.engine.sweep.slots import SLOTS, Slot, best_of, slots_of
from mtlora_jax.engine.sweep.workload import SCORE, Swept

__all__ = ["SCORE", "SLOTS", "Slot", "Swept", "best_of", "slots_of"]
