"""Published recipes on TPU slices, planned: compiled for each, and not run.

    python benchmarks/plans.py recipes [OUT.json]     every recipe on 8 chips of v5e, v5p and v6e
    python benchmarks/plans.py scaling [OUT.json]     Llama-2-7B at 16 rows a chip, on up to 512 chips

Prints a table in Markdown. What is planned is kept in OUT (benchmarks/results/tpu_plans.json) and not planned again;
one takes half a minute (language) to twelve (vision, v6e) on one core. Needs `pip install "jax[tpu]"`, and no TPU.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from mtlora_jax.files import read_json, write_json
from mtlora_jax.listing import GIB

ROOT = Path(__file__).parents[1]
EIGHT = ("v5e:2x4", "v5p:2x2x2", "v6e:2x4")
WHOLE, CUT = "--mesh.data=-1 --mesh.fsdp=1", "--mesh.data=1 --mesh.fsdp=-1"
LANGUAGE = ("commonsense_llama2_7b", "commonsense_llama3_8b", "csr_mtl9_llama3_8b", "glue_llama2_7b")
SMALL = (
    *("pascal_mtlora_r64", "nyud_mtlora_r64", "vlbart_mtl_lora", "pascal_full", "vlbart_full", "nyud_full"),
    *("pascal_mtlora_plus_r64", "pascal_mtlora_r32", "pascal_mtlora_r16", "pascal_mtlora_plus_r32"),
    *("pascal_mtlora_plus_r16", "vlbart_lora", "vlbart_dora", "pascal_decoders"),
    # Single tasks differ in their head alone.
    *("pascal_single_semseg", "pascal_single_human_parts"),
)

DIVIDED = {"vlbart_dora": " --train.batch_size=304"}
"""What makes a recipe's batch one that eight chips divide: its own is of 300."""


class Case(NamedTuple):
    """One recipe on one slice, with what is said beside the recipe."""

    recipe: str
    topology: str
    changes: str

    @property
    def key(self) -> str:
        return " ".join(self)


def recipes() -> Iterator[Case]:
    for recipe in LANGUAGE:
        for topology in EIGHT:
            yield Case(recipe, topology, CUT)
            yield Case(recipe, topology, f"{WHOLE} --quantize=nf4")
            if not topology.startswith("v5e"):
                yield Case(recipe, topology, WHOLE)
    for recipe in SMALL:
        for topology in EIGHT:
            yield Case(recipe, topology, f"{WHOLE} --dtype=bfloat16{DIVIDED.get(recipe, '')}")


def scaling() -> Iterator[Case]:
    slices = {
        "v5e": ("2x4", "4x4", "8x8", "16x16"),
        "v5p": ("2x2x2", "4x4x4", "8x8x8"),
    }
    for generation, changes in (("v5e", f"{WHOLE} --quantize=nf4"), ("v5e", CUT), ("v5p", WHOLE), ("v5p", CUT)):
        for sizes in slices[generation]:
            chips = math.prod(map(int, sizes.split("x")))
            yield Case("commonsense_llama2_7b", f"{generation}:{sizes}", f"{changes} --train.batch_size={16 * chips}")


def planned(case: Case) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plan.json"
        command = [sys.executable, "-m", "mtlora_jax.plan", "--config", f"configs/{case.recipe}.py"]
        command += ["--topology", case.topology, "--json", str(out), *case.changes.split()]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{case.key}: {done.stderr.strip()}")
        return json.loads(out.read_text())


def row(case: Case, plan: dict[str, Any]) -> Sequence[str]:
    mesh = " x ".join(map(str, plan["mesh"].values()))
    base = "nf4" if "nf4" in case.changes else ""
    needed = f"{plan['needed'] / GIB:.1f} of {plan['available'] / GIB:.0f}"
    if not plan["fits"]:
        return (case.recipe, base, case.topology, mesh, needed, *("-",) * 5)
    ms = {name: 1e3 * of for name, of in plan["seconds"].items()}
    shares = [f"{ms[name]:.3g}" for name in ("compute", "hbm", "network")]
    network = f"{ms['network'] / ms['compute']:.1%}"
    # A larger batch than the recipe's is not the recipe: only its steps are timed.
    hours = "" if "batch_size" in case.changes else f"{plan['chip_hours']:.3g}"
    return (case.recipe, base, case.topology, mesh, needed, *shares, network, hours)


def markdown(cases: Sequence[Case], found: dict[str, Any]) -> str:
    header = ("recipe", "base", "slice", "data x fsdp x tensor", "GiB a chip", "compute, ms", "HBM, ms", "network, ms")
    header += ("network over compute", "chip-hours at least")
    rows = [header, ("---",) * len(header), *(row(case, found[case.key]) for case in cases if case.key in found)]
    lines = ["| " + " | ".join(of) + " |" for of in rows]
    lacking = sum(case.key not in found for case in cases)
    return "\n".join([*lines, *([f"\npartial: {lacking} of {len(cases)} are still to come"] if lacking else [])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("recipes", "scaling"))
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "benchmarks/results/tpu_plans.json")
    parser.add_argument("--only", default="", help="cases whose words hold this")
    parser.add_argument("--table", action="store_true", help="print what there is, and plan nothing")
    args = parser.parse_args()
    cases = [case for case in (recipes if args.what == "recipes" else scaling)() if args.only in case.key]
    found = read_json(args.out) if args.out.exists() else {}
    for number, case in enumerate(cases, 1):
        if case.key not in found and not args.table:
            print(f"{number} of {len(cases)}: {case.key}", file=sys.stderr)
            found[case.key] = planned(case)
            write_json(args.out, found)
    print(markdown(cases, found))
    print(f"\nplans are in {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
