"""How often each operation of a compiled program runs, what it moves through memory and over which mesh axis.

The compiler's own cost analysis counts a loop's body once; here every computation is counted as often as it runs.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mtlora_jax.plan.hlo import ON_CHIP, SHAPE, Computation, Instruction, groups_of, hbm_of, read, sizes_of

TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
SLICES = ("slice", "dynamic-slice", "slice-start")
IN_PLACE = (
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
)
"""Operations that move nothing themselves."""


@dataclass(frozen=True)
class Collective:
    """A kind of communication over some mesh axes.

    Attributes:
      kind: such as `all-gather`.
      axes: names with `+` between them.
      count: how often a step does it.
      sent: bytes that each chip sends in a step, by rings.
    """

    kind: str
    axes: str
    count: int
    sent: float


class Program:
    """A scheduled HLO module.

    Args:
      text: as `compiled.as_text()` gives it.
      mesh: sizes by axis, in the order of devices.
    """

    def __init__(self, text: str, mesh: Mapping[str, int]):
        self._mesh = dict(mesh)
        self._all, self._entry = read(text)
        self._times = self._count()

    def _count(self) -> dict[str, int]:
        """How often each computation runs in a step."""
        times: dict[str, int] = defaultdict(int)

        def visit(name: str, n: int) -> None:
            times[name] += n
            for instruction in self._all[name].values():
                turns = self._turns(instruction) if instruction.kind == "while" else 1
                for callee in instruction.callees:
                    if callee in self._all:
                        visit(callee, n * turns)

        visit(self._entry, 1)
        return times

    def _turns(self, loop: Instruction) -> int:
        """How often a loop's body runs: as noted, or what its counter, from 0, is compared with."""
        if noted := TRIPS.search(loop.rest):
            return int(noted[1])
        condition = self._all[re.search(r"condition=%?([\w.$-]+)", loop.rest)[1]]
        for instruction in condition.values():
            if instruction.kind == "compare" and "direction=LT" in instruction.rest:
                for operand in instruction.operands:
                    if operand in condition and condition[operand].kind == "constant":
                        return int(re.match(r"(\d+)", condition[operand].rest)[1])
        return 1

    def _fused(self) -> set[str]:
        """Computations that are parts of one operation."""
        return {
            callee
            for computation in self._all.values()
            for instruction in computation.values()
            if instruction.kind not in ("while", "conditional", "call") and not instruction.kind.startswith("async")
            for callee in instruction.callees
        }

    def collectives(self) -> list[Collective]:
        """What is sent in a step, the most first."""
        counts: dict[tuple[str, str], int] = defaultdict(int)
        sent: dict[tuple[str, str], float] = defaultdict(float)
        # One that runs beside others is written once for its start, once for each of these, and once for its end.
        channels: dict[str, tuple[str, Instruction]] = {}
        for name, computation in self._all.items():
            for instruction in computation.values():
                if instruction.kind.removesuffix("-start") in COLLECTIVES and self._times[name]:
                    channel = re.search(r"channel_id=(\d+)", instruction.rest)
                    channels.setdefault(channel[1] if channel else f"{name} {instruction.name}", (name, instruction))
        for name, instruction in channels.values():
            kind = instruction.kind.removesuffix("-start")
            size, axes = self._group(instruction.rest)
            if size > 1:
                counts[kind, axes] += self._times[name]
                sent[kind, axes] += self._times[name] * _sent(kind, instruction, size)
        found = [Collective(kind, axes, counts[kind, axes], sent[kind, axes]) for kind, axes in counts]
        return sorted(found, key=lambda collective: -collective.sent)

    def _group(self, rest: str) -> tuple[int, str]:
        """How many devices take part together, and over which axes."""
        groups = groups_of(rest)
        shape = tuple(self._mesh.values())
        if groups is None:
            groups = np.arange(math.prod(shape))[None]
        places = np.stack(np.unravel_index(np.asarray(groups[0]), shape))
        axes = [axis for axis, of in zip(self._mesh, places, strict=True) if len(set(of.tolist())) > 1]
        return len(groups[0]), "+".join(axes) or "none"

    def hbm_bytes(self) -> float:
        """Bytes that a step reads from and writes to HBM on a chip: operands and results of every operation; of a
        stack of layers, what is read of it."""
        total, fused = 0.0, self._fused()
        for name, computation in self._all.items():
            if name in fused or not self._times[name]:
                continue
            shapes = {i.name: i.shapes for i in computation.values()}
            moved = sum(
                self._moved(instruction, shapes)
                for instruction in computation.values()
                if instruction.kind not in IN_PLACE and not instruction.kind.endswith("-done")
            )
            total += self._times[name] * moved
        return total

    def _moved(self, instruction: Instruction, shapes: Mapping[str, str]) -> float:
        operands = instruction.operands
        if instruction.kind in SLICES:
            return self._sliced(instruction, shapes)
        if instruction.kind == "copy-start":  # whose shapes are of both sides
            return hbm_of(instruction.shapes)
        if instruction.kind == "dynamic-update-slice":
            return 2 * hbm_of(shapes.get(operands[1], ""))
        inner = self._fused_in(instruction)
        if inner is None:
            return hbm_of(instruction.shapes) + sum(hbm_of(shapes.get(name, "")) for name in operands)
        read = sum(self._reads(inner, i, hbm_of(shapes.get(name, ""))) for i, name in enumerate(operands))
        return read + self._result_of(inner, instruction)

    def _sliced(self, instruction: Instruction, shapes: Mapping[str, str]) -> float:
        """What a slice reads, where that is of an array in HBM, and what it writes there."""
        arrays = [found[0] for found in SHAPE.finditer(instruction.shapes)]
        part = arrays[1] if instruction.kind.endswith("-start") else arrays[0]  # behind the whole
        in_hbm = hbm_of(shapes.get(instruction.operands[0], "")) > 0
        return hbm_of(part) + (hbm_of(ON_CHIP.sub("", part)) if in_hbm else 0)

    def _fused_in(self, instruction: Instruction) -> Computation | None:
        callees = instruction.callees if instruction.kind == "fusion" else ()
        return self._all.get(callees[0]) if callees else None

    def _reads(self, fused: Computation, i: int, whole: float) -> float:
        """Bytes that a fusion reads of its i-th operand: of one that it only slices, the slices; of one that it only
        updates a slice of, nothing; else the whole."""
        parameter = next(p for p in fused.values() if p.kind == "parameter" and p.rest.startswith(f"{i})"))
        return min(self._reads_of(fused, parameter.name, whole), whole)

    def _reads_of(self, fused: Computation, name: str, whole: float) -> float:
        total, users = 0.0, [user for user in fused.values() if name in user.operands]
        for user in users:
            inner = self._fused_in(user)
            if user.kind in ("bitcast", "copy") or (inner is not None and _is_copy(inner)):
                total += self._reads_of(fused, user.name, whole)
            elif inner is not None:
                total += sum(self._reads(inner, i, whole) for i, of in enumerate(user.operands) if of == name)
            elif user.kind in SLICES and user.operands[0] == name:
                total += hbm_of(user.shapes)
            elif user.kind != "dynamic-update-slice" or user.operands[0] != name:
                return whole
        return total if users else whole

    def _result_of(self, fused: Computation, instruction: Instruction) -> float:
        """Bytes that a fusion writes: where it updates stacks, the updates."""
        stacks, written = self._updates(fused)
        return max(hbm_of(instruction.shapes) - stacks, 0) + written

    def _updates(self, fused: Computation) -> tuple[float, float]:
        stacks, written = 0.0, 0.0
        for instruction in fused.values():
            if instruction.kind == "dynamic-update-slice":
                of = hbm_of(instruction.shapes), hbm_of(fused[instruction.operands[1]].shapes)
            else:
                inner = self._fused_in(instruction)
                of = (0.0, 0.0) if inner is None else self._updates(inner)
            stacks, written = stacks + of[0], written + of[1]
        return stacks, written


def _is_copy(fused: Computation) -> bool:
    """Whether a fusion only lays its operand out anew; within another, that is of what is used."""
    return {instruction.kind for instruction in fused.values()} <= {"parameter", "copy", "bitcast"}


def _sent(kind: str, instruction: Instruction, devices: int) -> float:
    """Bytes that each of some devices sends, around a ring."""
    each = sizes_of(instruction.shapes)
    started, share = instruction.kind.endswith("-start"), (devices - 1) / devices
    if kind == "all-reduce":
        return 2 * share * sum(each)
    if kind == "reduce-scatter":
        return share * devices * (min(each) if started else sum(each))
    if kind == "collective-permute":
        return max(each)
    return share * (max(each) if started else sum(each))
