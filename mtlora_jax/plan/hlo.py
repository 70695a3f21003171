"""A compiled program as text: its computations, their operations, and the arrays and devices that these name."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.$-]+) (?:\(.*)?\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.$-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
SHAPE = re.compile(r"\b(pred|s4|u4|s8|u8|s16|u16|s32|u32|s64|u64|f8\w*|bf16|f16|f32|f64|c64)\[([\d,]*)\](\{[^}]*\})?")
LAYOUT = re.compile(r"\{([\d,]*):T\(([\d,]+)\)")
ON_CHIP = re.compile(r"S\([1-9]\d*\)")
CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.$-]+)|branch_computations=\{([^}]*)\}")


@dataclass(frozen=True)
class Instruction:
    """One operation.

    Attributes:
      name, kind: its own, and what it does.
      shapes: of its results, as they are written.
      rest: its operands and attributes.
    """

    name: str
    kind: str
    shapes: str
    rest: str

    @property
    def operands(self) -> list[str]:
        depth, end = 1, len(self.rest)
        for i, character in enumerate(self.rest):
            depth += (character in "({") - (character in ")}")
            if depth == 0:
                end = i
                break
        return re.findall(r"%([\w.$-]+)", self.rest[:end])

    @property
    def callees(self) -> list[str]:
        found = CALLED.findall(self.rest)
        return [name.strip().lstrip("%") for one, many in found for name in (one or many).split(",")]


Computation = dict[str, Instruction]
"""Operations by name."""


def read(text: str) -> tuple[dict[str, Computation], str]:
    """A module's computations by name, and which of them is its entry.

    Args:
      text: as `compiled.as_text()` gives it.
    """
    found: dict[str, Computation] = {}
    current, entry = None, ""
    for line in text.splitlines():
        if current is None:
            if (begun := COMPUTATION.match(line)) and not line.startswith("HloModule"):
                current = found[begun[1]] = {}
                if line.startswith("ENTRY"):
                    entry = begun[1]
        elif line.rstrip() == "}":  # attributes of kernels go over several lines, and some begin with one
            current = None
        elif stated := INSTRUCTION.match(line):
            current[stated[1]] = Instruction(stated[1], stated[3], stated[2], stated[4])
    return found, entry


def sizes_of(shapes: str) -> list[float]:
    """Bytes of each array in a written shape."""
    return [_bytes(kind, map(int, sizes.split(",") if sizes else ())) for kind, sizes, _ in SHAPE.findall(shapes)]


def hbm_of(shapes: str) -> float:
    """Bytes of the arrays in a written shape as they lie in HBM; of those in memory on the chip (`S(1)`) none."""
    return sum(
        _bytes(kind, _laid_out([int(n) for n in sizes.split(",") if n], layout))
        for kind, sizes, layout in SHAPE.findall(shapes)
        if not ON_CHIP.search(layout)
    )


def _bytes(kind: str, sizes: Iterable[int]) -> float:
    return math.prod(sizes) * int((re.search(r"\d+", kind) or ["8"])[0]) / 8


def _laid_out(sizes: Sequence[int], layout: str) -> list[int]:
    """Sizes of an array whose tiles, `T(8,128)` of the axes that are last in its layout, are whole."""
    found = LAYOUT.match(layout)
    if found is None:
        return list(sizes)
    axes, tile = ([int(n) for n in of.split(",") if n] for of in found.groups())
    sizes = [sizes[axis] for axis in reversed(axes)]
    sizes = [1] * (len(tile) - len(sizes)) + sizes
    first = len(sizes) - len(tile)
    return sizes[:first] + [-(-size // of) * of for size, of in zip(sizes[first:], tile, strict=True)]


def groups_of(rest: str) -> list[list[int]] | None:
    """The devices of each group; None where all take part."""
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
        sizes = [int(n) for n in re.findall(r"=(\d+)", found[1])]
        names, along = re.findall(r"'(\w+)'=", found[1]), re.findall(r"'(\w+)'", found[2])
        last = [i for i, name in enumerate(names) if name in along]
        ids = np.arange(math.prod(sizes)).reshape(sizes)
        ids = np.moveaxis(ids, last, range(-len(last), 0))
        return ids.reshape(-1, math.prod(sizes[i] for i in last)).tolist()
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        rows, columns, sizes, order = found.groups()
        ids = np.arange(int(rows) * int(columns)).reshape([int(n) for n in sizes.split(",")])
        if order:
            ids = ids.transpose([int(n) for n in order.split(",")])
        return ids.reshape(int(rows), int(columns)).tolist()
    if found := re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", rest):
        return [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", found[1])]
    if found := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", rest):
        return [[int(found[1]), int(found[2])]]
    return None
