"""Every registered method keeps the contract, one of one's own too; and the library's examples run."""

import dataclasses
import doctest
import importlib
import pkgutil
import sys
from typing import ClassVar, Literal, get_args, get_origin, get_type_hints

import battery
import jax
import pytest
from battery import CHECKS
from cases import CASES, Layer, cases_of, layer_of, same, spec_class

from mtlora_jax import adapters
from mtlora_jax.adapters import METHODS, Spec, defaults
from mtlora_jax.adapters.leaf import Leaf, fan_in_uniform, zeros
from mtlora_jax.adapters.methods.lora import updated

SLOW = {"derivatives_agree_with_each_other_and_with_differences", "one_task_s_loss_reaches_no_other_task_s_leaves"}


@pytest.mark.parametrize("check", [pytest.param(c, marks=[pytest.mark.slow] * (c.__name__ in SLOW)) for c in CHECKS])
@pytest.mark.parametrize("name", CASES)
def test_the_contract(name, check):
    check(layer_of(name))


def values(kind) -> set:
    """All values of a switch; numbers and tuples are no switches."""
    return {True, False} if kind is bool else set(get_args(kind)) if get_origin(kind) is Literal else set()


def test_every_method_and_every_value_of_its_options_is_a_case():
    assert {spec.method for spec in CASES.values()} == set(METHODS)
    for method in METHODS:
        cls = spec_class(method)
        for field in dataclasses.fields(cls):
            found = {getattr(spec, field.name) for spec in CASES.values() if type(spec) is cls}
            missing = values(get_type_hints(cls)[field.name]) - found
            # A spec of mode lora_only without tasks is one of mode matrix: it rewrites itself.
            assert missing <= {"lora_only"}, (cls, field.name)


# --- a method from outside


@dataclasses.dataclass(frozen=True)
class Halved(Spec):
    """LoRA at half its scale: a method as a user would write it."""

    method: ClassVar[str] = "halved"
    rank: int = 2
    symmetric: bool = False
    dropout: float = 0.0


def declare(spec, d_in, d_out):
    return {"A": Leaf((d_in, spec.rank), fan_in_uniform), "B": Leaf((spec.rank, d_out), zeros)}


def apply(spec, leaves, kernel, bias, x, *, task_id=None, dropout_key=None):
    return updated(kernel, bias, *export(spec, leaves, kernel), x, spec.dropout, dropout_key)


def export(spec, leaves, kernel, task=None):
    return leaves["A"], leaves["B"] / 2


init, delta, merge = defaults(declare, export)


def test_a_method_registered_from_outside_gets_the_full_battery(monkeypatch):
    monkeypatch.setitem(METHODS, "halved", sys.modules[__name__])
    cases = cases_of("halved")
    assert list(cases) == ["halved", "halved, symmetric=True", "halved, dropout"]
    assert len(CHECKS) > 15
    for spec in cases.values():
        for check in CHECKS:
            check(Layer(spec))


def test_the_battery_finds_a_method_that_breaks_the_contract(monkeypatch):
    module = sys.modules[__name__]
    monkeypatch.setitem(METHODS, "halved", module)
    monkeypatch.setattr(module, "apply", lambda spec, leaves, kernel, bias, x, **more: x @ kernel + 1.0)
    with pytest.raises(AssertionError):
        battery.a_fresh_adapter_changes_nothing(Layer(Halved()))


# --- examples


EXAMPLES = {"merge": 5, "streams": 3, "methods.lora": 4, "methods.mtlora": 6}
"""Modules whose docstring has an example, and its lines."""
MODULES = [m.name for m in pkgutil.walk_packages(adapters.__path__, "mtlora_jax.adapters.")]


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_run(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.failed == 0
    assert result.attempted >= EXAMPLES.get(module.removeprefix("mtlora_jax.adapters."), 0)


def test_the_library_s_front_page_has_an_example():
    result = doctest.testmod(adapters)
    assert result.attempted > 3
    assert result.failed == 0


def test_a_name_draws_the_same_numbers_whatever_else_is_declared():
    one = adapters.lora.init(adapters.LoRA(rank=2), jax.random.key(0), 4, 6)["A"]
    declared = {"A": Leaf((4, 2), fan_in_uniform), "other": Leaf((3, 3), fan_in_uniform)}
    same(adapters.leaf.draw(declared, jax.random.key(0))["A"], one)
