"""The tables of plans: which cases there are, and what a row says."""

import importlib.util
from pathlib import Path

import pytest

from mtlora_jax.cli import load_config, override

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plans():
    spec = importlib.util.spec_from_file_location("plans", ROOT / "benchmarks" / "plans.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_case_is_a_recipe_that_takes_its_changes(plans):
    cases = [*plans.recipes(), *plans.scaling()]
    assert len({case.key for case in cases}) == len(cases)
    for recipe, changes in {(case.recipe, case.changes) for case in cases}:
        override(load_config(str(ROOT / "configs" / f"{recipe}.py")), changes.split()).validate()
    # As many rows a chip on every slice.
    rows = {case.topology: int(case.changes.rpartition("=")[2]) for case in plans.scaling()}
    assert rows["v5e:16x16"] == 16 * 256
    assert rows["v5p:8x8x8"] == 16 * 512


def test_a_row_says_what_fits_and_what_the_network_takes(plans):
    case = plans.Case("glue_llama2_7b", "v5e:2x4", "--quantize=nf4")
    plan = {
        "mesh": {"data": 8, "fsdp": 1, "tensor": 1},
        "needed": 3 * 2**30,
        "available": 16 * 2**30,
        "chip_hours": 2.5,
    }
    plan |= {"chip_hours": 2.5, "fits": True, "seconds": {"compute": 0.2, "hbm": 0.1, "network": 0.01}}
    expected = ("glue_llama2_7b", "nf4", "v5e:2x4", "8 x 1 x 1", "3.0 of 16", "200", "100", "10", "5.0%", "2.5")
    assert plans.row(case, plan) == expected
    assert plans.row(case, {**plan, "fits": False})[4:] == ("3.0 of 16", *("-",) * 5)
    larger = plans.Case("glue_llama2_7b", "v5e:2x4", "--train.batch_size=128")
    assert plans.row(larger, plan)[-1] == ""
    table = plans.markdown([case, larger], {case.key: plan})
    assert "| 5.0% | 2.5 |" in table
    assert "partial: 1 of 2 are still to come" in table
