"""Configs: validation, JSON round trips, and what a resumed run may change."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlora_jax import schema
from mtlora_jax.config import Config, Mesh, Optim, Train, check_resumable, from_json, to_json
from mtlora_jax.errors import UserError


@dataclass(frozen=True)
class Small:
    rank: int = 4


@dataclass(frozen=True)
class Large:
    rank: int = 4
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, not {self.rank}")


@dataclass(frozen=True)
class Larger(Large):
    extra: str = ""


@dataclass(frozen=True)
class Job:
    weight: float = 1.0
    head: Literal["a", "b"] = "a"
    classes: int | None = None


@dataclass(frozen=True)
class Domain(Config):
    adapter: Small | Large | None = None
    one: Large = field(default_factory=Large)
    tasks: Mapping[str, Job] = field(default_factory=dict)
    ranks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    widths: tuple[int, ...] | None = (1, 2)
    pair: tuple[int, str] = (1, "x")
    dtype: Literal["float32", "bfloat16"] = "float32"
    flag: bool = True


FULL = Domain(
    name="full",
    adapter=Small(2),
    one=Larger(8, (0.5, 2.0), "more"),
    tasks={"b": Job(2.0, "b", 3), "a": Job()},
    ranks={"x": (1, 2)},
    widths=None,
)


def through_json(config):
    return from_json(json.loads(json.dumps(to_json(config))))


@pytest.mark.parametrize(
    "config", [Config(), Domain(), FULL, replace(FULL, adapter=Large()), replace(FULL, adapter=None)]
)
def test_round_trip(config):
    config.validate()
    again = through_json(config)
    assert again == config
    assert type(again) is type(config)
    if isinstance(config, Domain):
        assert list(again.tasks) == list(config.tasks)
        assert type(again.one) is type(config.one)


@given(
    lr=st.floats(0, 1e3),
    scales=st.lists(st.floats(allow_nan=False, allow_infinity=False)).map(tuple),
    ranks=st.dictionaries(st.text(min_size=1), st.lists(st.integers()).map(tuple)),
    text=st.text(),
)
def test_round_trip_keeps_every_value(lr, scales, ranks, text):
    config = Domain(optim=Optim(lr=lr), one=Larger(scales=scales, extra=text), ranks=ranks)
    assert through_json(config) == config


def test_json_names_a_class_only_where_the_annotation_leaves_it_open():
    value = to_json(FULL)
    assert value["kind"] == f"{__name__}:Domain"
    assert value["adapter"] == {"kind": f"{__name__}:Small", "rank": 2}
    assert value["one"]["kind"] == f"{__name__}:Larger"
    assert "kind" not in value["optim"]
    assert "kind" not in value["tasks"]["a"]
    assert "kind" not in to_json(Domain())["one"]


def edited(path, value):
    """FULL's JSON with one key changed, or removed for `value` None."""
    result = node = to_json(FULL)
    *parents, last = path.split(".")
    for key in parents:
        node = node[key]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return result


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optim.lr", "fast", "optim.lr must be a number, not 'fast'"),
        ("optim.lr", float("nan"), "optim.lr must be a number, not nan"),
        ("train.steps", 1.5, "train.steps must be a whole number, not 1.5"),
        ("train.steps", True, "train.steps must be a whole number, not True"),
        ("flag", 1, "flag must be True or False, not 1"),
        ("dtype", "int4", "dtype must be one of float32, bfloat16, not 'int4'"),
        ("widths", [1, "x"], r"widths\[1\] must be a whole number"),
        ("widths", 3, "widths must be a tuple, each entry a whole number or None, not 3"),
        ("pair", [1], "pair must be a tuple, a whole number, text, not"),
        ("tasks", [1], "tasks must be a dict of Job, not"),
        ("tasks.a.weight", "x", "tasks.a.weight must be a number"),
        ("tasks.a.classes", "x", "tasks.a.classes must be a whole number or None, not 'x'"),
        ("ranks.x", 1, "ranks.x must be a tuple"),
        ("optim.moment", 1, "unknown key optim.moment: Optim has lr, "),
        ("optim.b1", None, "key optim.b1 is missing"),
        ("kind", f"{__name__}:Nobody", "kind: there is no class"),
        ("kind", "no.such.module:C", "kind: there is no class"),
        ("kind", 3, "kind must name the class of a Config, as module:Class"),
        ("adapter.kind", None, "adapter.kind must name the class of a Small or Large"),
        ("kind", "mtlora_jax.config:Optim", "kind: mtlora_jax.config:Optim is not a Config"),
        ("one.kind", f"{__name__}:Small", "one.kind: .* is not a Large"),
        ("one.rank", 0, "one: rank must be at least 1, not 0"),
        ("adapter", 3, "adapter must be Small or Large or None, not 3"),
        ("adapter.depth", 3, "unknown key adapter.depth"),
    ],
)
def test_json_errors_name_the_key(path, value, message):
    with pytest.raises(UserError, match=message) as error:
        from_json(edited(path, value))
    assert "\n" not in str(error.value)


def test_json_must_hold_an_object():
    with pytest.raises(UserError, match="the config must be Config, not 3"):
        from_json(3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(name="a b"), "name must be of letters, digits"),
        (Config(name="../up"), "name must"),
        (Config(name=".."), "name must"),
        (Config(seed=-1), "seed must lie between"),
        (Config(seed=2**31), "seed must lie between"),
        (Config(optim=Optim(lr=-1.0)), "optim.lr must be at least 0, not -1.0"),
        (Config(optim=Optim(b2=1.0)), r"optim.b2 must lie in \[0, 1\), not 1.0"),
        (Config(optim=Optim(eps=0.0)), "optim.eps must be positive"),
        (
            Config(optim=Optim(schedule="stairs")),
            "optim.schedule must be one of cosine, linear, constant, not 'stairs'",
        ),
        (Config(optim=Optim(lr=float("inf"))), "optim.lr must be a number, not inf"),
        (Config(train=Train(steps=0)), "train.steps must be at least 1, not 0"),
        (Config(train=Train(batch_size="8")), "train.batch_size must be a whole number, not '8'"),
        (Config(train=Train(workers=-1)), "train.workers must be at least 0"),
        (Config(mesh=Mesh(tensor=0)), "mesh.tensor must be -1 or at least 1, not 0"),
        (Config(mesh=Mesh(data=-1, fsdp=-1)), "only one of data, fsdp and tensor"),
        (Domain(widths=[1, 2]), r"widths is the list \[1, 2\]: write a tuple"),
        (Domain(adapter="lora"), "adapter must be Small or Large or None, not 'lora'"),
        (Domain(dtype={1, 2}), "dtype holds a set, which a config cannot"),
        (Domain(tasks={"a": 1.0}), "tasks.a must be Job, not 1.0"),
    ],
)
def test_validate_refuses(config, message):
    with pytest.raises(UserError, match=message):
        config.validate()


def test_resume_allows_length_reports_and_machine_but_nothing_that_computes():
    old = to_json(FULL)
    free = Train(steps=9, eval_every=3, checkpoint_every=2, log_every=1, keep=5, workers=7, worker_kind="thread")
    check_resumable(old, to_json(replace(FULL, train=free, mesh=Mesh(fsdp=2))))
    for changed, message in [
        (replace(FULL, optim=Optim(lr=2e-4)), "optim.lr was 0.001, now 0.0002; choose another --workdir"),
        (replace(FULL, seed=1), "seed was 0, now 1"),
        (replace(FULL, train=Train(batch_size=4)), "train.batch_size was 8, now 4"),
        (replace(FULL, adapter=None), "adapter.kind was .*Small, now absent"),
        (replace(FULL, tasks={"b": FULL.tasks["b"]}), "tasks.a.weight was 1.0, now absent"),
        (replace(FULL, ranks={}), r"ranks.x was \[1, 2\], now absent"),
        (Config(name="full"), "kind was"),
    ]:
        with pytest.raises(UserError, match=message):
            check_resumable(old, to_json(changed))


def test_fields_are_those_one_can_set():
    assert list(schema.fields(Config)) == ["name", "seed", "optim", "train", "mesh", "sweep", "sweep_keep"]
