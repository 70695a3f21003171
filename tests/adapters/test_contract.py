"""The contract that every adapter method keeps, for every value of its options: the pure functions."""

import dataclasses
import doctest
import importlib
import pkgutil
from functools import partial
from typing import Literal, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BY_TASK_ID, CASES, IN, OUT, Layer, formula, layer_of, parts
from jax.flatten_util import ravel_pytree

from mtlora_jax import adapters
from mtlora_jax.adapters import METHODS, CannotMerge, Full, LoRA, MTLoRA, Streams, leaf

FORMS = ("array", "streams")
every_case = pytest.mark.parametrize("name", CASES)
every_form = pytest.mark.parametrize("form", FORMS)


def with_tasks(**options) -> Layer:
    spec = {"rank": 2, "tasks": ("a", "b"), "task_ranks": (1, 2), "task_scales": (2.0, 3.0)}
    return Layer(MTLoRA(**{**spec, **options}))


def close(a, b, tolerance=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def plain(x, kernel, bias) -> np.ndarray:
    """A layer without an adapter."""
    return np.asarray(x) @ np.asarray(kernel) + np.asarray(bias)


# --- the cases


def values(kind) -> set:
    """All values of a switch; numbers and tuples are no switches."""
    return {True, False} if kind is bool else set(get_args(kind)) if get_origin(kind) is Literal else set()


def test_every_method_and_every_value_of_its_options_is_a_case():
    cases = [*CASES.values(), *BY_TASK_ID.values()]
    assert {spec.method for spec in cases} == set(METHODS)
    for cls in {type(spec) for spec in cases}:
        for field in dataclasses.fields(cls):
            found = {getattr(spec, field.name) for spec in cases if type(spec) is cls}
            missing = values(get_type_hints(cls)[field.name]) - found
            # A spec of mode lora_only rewrites itself: it is the case of that name.
            assert missing <= {"lora_only"}, (cls, field.name)


EXAMPLES = {"lora": 4, "merge": 5, "mtlora": 6, "streams": 3}
"""Modules whose docstring has an example, and its lines."""


@pytest.mark.parametrize("module", [m.name for m in pkgutil.iter_modules(adapters.__path__)])
def test_examples_in_docstrings_run(module):
    result = doctest.testmod(importlib.import_module(f"mtlora_jax.adapters.{module}"))
    assert result.failed == 0
    assert result.attempted >= EXAMPLES.get(module, 0)


def test_the_library_s_front_page_has_an_example():
    result = doctest.testmod(adapters)
    assert result.attempted > 3
    assert result.failed == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoRA(rank=0), "rank of at least 1, not 0"),
        (lambda: LoRA(dropout=1.0), r"dropout must lie in \[0, 1\), not 1.0"),
        (lambda: MTLoRA(rank=0), "shared rank of at least 1, not 0"),
        (lambda: with_tasks(task_ranks=(1,)), "2 tasks, 1 ranks, 2 scales"),
        (lambda: with_tasks(task_ranks=(1, -1)), "task b, not -1"),
        (lambda: with_tasks(tasks=("a", "a")), "'a'.*given twice"),
        (lambda: with_tasks(tasks=("a", "shared")), "'shared'.*reserved"),
        (lambda: Full(()), "one or more tasks"),
        (lambda: Full(("a", "a")), "each given once"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- leaves and init


@every_case
def test_init_draws_what_is_declared_and_every_leaf_from_its_own_key(name):
    layer = layer_of(name)
    declared = layer.method.leaves(layer.spec, IN, OUT)
    fresh = layer.fresh
    assert {n: (x.shape, x.dtype) for n, x in fresh.items()} == {n: (d.shape, jnp.float32) for n, d in declared.items()}
    same(fresh, layer.fresh)
    for n, d in declared.items():
        same(leaf.draw({n: d}, jax.random.key(0))[n], fresh[n])
    drawn = [x for x in fresh.values() if x.size and np.ptp(x) > 0]
    other = layer.method.init(layer.spec, jax.random.key(1), IN, OUT)
    assert any((x != other[n]).all() for n, x in fresh.items() if x.size) or not drawn
    many = jax.vmap(lambda key: layer.method.init(layer.spec, key, IN, OUT))(jax.random.split(jax.random.key(2), 3))
    assert {n: x.shape for n, x in many.items()} == {n: (3, *d.shape) for n, d in declared.items()}


def test_down_projections_fill_the_interval_that_the_paper_draws_from():
    a = adapters.lora.init(LoRA(rank=64), jax.random.key(0), 16, 4)["A"]
    assert 0.24 < abs(a).max() <= 0.25
    assert abs(a.mean()) < 0.02


# --- apply


@every_case
@every_form
def test_apply_is_the_formula(name, form):
    layer = layer_of(name)
    x = layer.inputs[form]
    y = layer.apply(layer.leaves, x)
    assert isinstance(y, Streams) == bool(layer.tasks or form == "streams")
    assert y.tasks.shape[0] == (len(layer.tasks) or 2) if isinstance(y, Streams) else True
    ours, expected = parts(y, layer.tasks), formula(layer, layer.leaves, x)
    assert ours.keys() == expected.keys()
    for t in expected:
        np.testing.assert_allclose(ours[t], expected[t], rtol=1e-4, atol=1e-5, err_msg=str(t))


@every_case
@every_form
def test_a_fresh_adapter_changes_no_stream(name, form):
    layer = layer_of(name)
    x = layer.inputs[form]
    given = parts(x, layer.tasks)
    published = getattr(layer.spec, "task_base", "per_task") == "shared"
    for t, y in parts(layer.apply(layer.fresh, x), layer.tasks).items():
        own = given["shared"] if published and layer.tasks else given.get(t, given["shared"])
        if t == "shared" and getattr(layer.spec, "mode", "") == "addition":
            # The exception: this mode's shared output adds a normalised sum of the tasks to the base.
            assert abs(y - plain(own, *layer.base)).max() > 0.1
        else:
            np.testing.assert_allclose(y, plain(own, *layer.base), rtol=1e-5, atol=1e-6, err_msg=t)


@every_case
@every_form
def test_in_bfloat16_leaves_and_gradients_stay_float32(name, form):
    layer = layer_of(name)
    x = jax.tree.map(lambda a: a.astype(jnp.bfloat16), layer.inputs[form])
    y = jax.eval_shape(layer.apply, layer.leaves, x)
    assert {a.dtype for a in jax.tree.leaves(y)} == {jnp.dtype(jnp.bfloat16)}

    def loss(leaves):
        return sum(a.astype(jnp.float32).sum() for a in jax.tree.leaves(layer.apply(leaves, x)))

    assert {g.dtype for g in jax.eval_shape(jax.grad(loss), layer.leaves).values()} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", ["lora", "full", "matrixv2, per_task, trainable scales", "addition, shared"])
def test_bfloat16_is_float32_rounded(name):
    layer = layer_of(name)
    x = layer.inputs["streams"]
    half = jax.jit(layer.apply)(layer.leaves, jax.tree.map(lambda a: a.astype(jnp.bfloat16), x))
    for a, b in zip(*(jax.tree.leaves(y) for y in (half, layer.apply(layer.leaves, x))), strict=True):
        np.testing.assert_allclose(a.astype(np.float32), b, atol=0.03 * abs(b).max())


@pytest.mark.parametrize("spec", [Full(("a", "b")), with_tasks().spec])
def test_another_number_of_streams_is_an_error(spec):
    layer = Layer(spec)
    x = layer.inputs["array"]
    with pytest.raises(ValueError, match=r"3 task streams reached a layer of 2 tasks: a, b"):
        layer.apply(layer.leaves, Streams(x, jnp.stack([x, x, x])))


@every_case
@pytest.mark.parametrize("lead", [(), (2,), (2, 3, 4, 5)])
def test_any_leading_axes_will_do(name, lead):
    layer = layer_of(name)
    x = jax.ShapeDtypeStruct((*lead, IN), jnp.float32)
    y = jax.eval_shape(layer.apply, layer.leaves, x)
    expected = [(*lead, OUT), (len(layer.tasks), *lead, OUT)] if layer.tasks else [(*lead, OUT)]
    assert [a.shape for a in jax.tree.leaves(y)] == expected


# --- delta, merge, export


def mergeable(layer: Layer, t: str | None) -> bool:
    """What the docstrings say can be merged."""
    if not isinstance(layer.spec, MTLoRA) or not layer.tasks:
        return True
    return layer.spec.mode != "addition" if t is None else layer.spec.task_base == "per_task"


@every_case
def test_merging_is_exact_or_refused_with_the_reason(name):
    layer = layer_of(name)
    leaves, (kernel, bias) = layer.leaves, layer.base
    for t in (None, *layer.tasks):
        args = layer.spec, leaves, kernel
        if not mergeable(layer, t):
            reason = "LayerNorm of the tasks' sum" if t is None else f"task {t} adds W of the shared stream"
            for function in (layer.method.delta, layer.method.export):
                with pytest.raises(CannotMerge, match=reason):
                    function(*args, t)
            with pytest.raises(CannotMerge, match=reason):
                layer.method.merge(*args, bias, t)
            continue
        merged = layer.method.merge(*args, bias, t)
        delta = layer.method.delta(*args, t)
        down, up = layer.method.export(*args, t)
        assert delta.shape == (IN, OUT)
        np.testing.assert_allclose(down @ up, delta, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(merged[0], kernel + delta, rtol=1e-6, atol=1e-6)
        assert layer.method.merge(*args, None, t)[1] is None
        for x in layer.inputs.values():
            given, name = parts(x, layer.tasks), t or "shared"
            y = parts(layer.apply(leaves, x), layer.tasks)[name]
            np.testing.assert_allclose(plain(given.get(name, given["shared"]), *merged), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", [Full(("a",)), with_tasks().spec, with_tasks(task_base="per_task").spec])
def test_a_task_that_the_layer_lacks_cannot_be_merged(spec):
    layer = Layer(spec)
    with pytest.raises(CannotMerge, match=r"no task 'z': its tasks are a"):
        layer.method.delta(layer.spec, layer.leaves, layer.base[0], "z")


# --- transformations


def smooth(layer: Layer, point) -> jax.Array:
    """A curved scalar of a layer's output, of every argument that one may want a derivative of."""
    leaves, kernel, bias, x = point
    y = layer.method.apply(layer.spec, leaves, kernel, bias, x)
    return sum(jnp.sin(a).sum() for a in jax.tree.leaves(y))


def direction(point):
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape) / 4, jnp.float32), point)


def inner(a, b) -> float:
    return float(sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)))


@pytest.mark.slow
@every_case
@every_form
def test_derivatives_agree_with_each_other_and_with_differences(name, form):
    layer = layer_of(name)
    point = (layer.leaves, *layer.base, layer.inputs[form])
    v, w = direction(point), direction(point)
    f = partial(smooth, layer)

    def at(h):
        return jax.tree.map(lambda a, d: a + h * d, point, v)

    value, slope = jax.jvp(f, (point,), (v,))
    gradient = jax.grad(f)(point)
    np.testing.assert_allclose(value, f(point), rtol=1e-5)
    np.testing.assert_allclose(inner(gradient, v), slope, rtol=1e-3, atol=1e-3)
    h = 1e-2
    np.testing.assert_allclose((f(at(h)) - f(at(-h))) / (2 * h), slope, rtol=1e-2, atol=2e-2)
    curvature = jax.jvp(jax.grad(f), (point,), (v,))[1]
    np.testing.assert_allclose(
        (inner(jax.grad(f)(at(h)), w) - inner(jax.grad(f)(at(-h)), w)) / (2 * h),
        inner(curvature, w),
        rtol=2e-2,
        atol=2e-2 * max(1.0, abs(inner(curvature, w))),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if f"{name}, trainable scales" not in CASES])
def test_jit_and_hessian(name):
    layer = layer_of(name)
    flat, unravel = ravel_pytree((layer.leaves, *layer.base, layer.inputs["streams"]))

    def f(flat):
        return smooth(layer, unravel(flat))

    compiled = jax.jit(lambda p: (f(p), jax.grad(f)(p), jax.hessian(f)(p))).lower(flat)
    value, gradient, hessian = compiled.compile(compiler_options={"xla_backend_optimization_level": 0})(flat)
    np.testing.assert_allclose(value, f(flat), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, jax.grad(f)(flat), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-3)
    v = direction(flat)
    np.testing.assert_allclose(hessian @ v, jax.jvp(jax.grad(f), (flat,), (v,))[1], rtol=1e-3, atol=1e-3)


@every_case
def test_specs_are_static_arguments_and_adapters_are_an_axis(name):
    layer = layer_of(name)
    x = layer.inputs["streams"]
    jitted = jax.jit(layer.method.apply, static_argnums=0)
    close(jitted(layer.spec, layer.leaves, *layer.base, x), layer.apply(layer.leaves, x))
    two = jax.tree.map(lambda a, b: jnp.stack([a, b]), layer.leaves, layer.fresh)
    both = jax.vmap(lambda leaves: layer.apply(leaves, x))(two)
    for i, leaves in enumerate((layer.leaves, layer.fresh)):
        close(jax.tree.map(lambda a, i=i: a[i], both), layer.apply(leaves, x))


# --- dropout

DROPPING = [name for name, spec in CASES.items() if spec.dropout]
KEY, OTHER = jax.random.split(jax.random.key(5))


def without_norm(leaves):
    """Past a LayerNorm no mean is kept: its gain and shift are put to zero."""
    return {n: jnp.zeros_like(a) if n.startswith("norm_") else a for n, a in leaves.items()}


@pytest.mark.parametrize("name", DROPPING)
def test_dropout_keeps_the_mean(name):
    layer = layer_of(name)
    leaves, x = without_norm(layer.leaves), layer.inputs["array"]
    keys = jax.random.split(KEY, 2000)
    drawn = jax.vmap(lambda key: layer.apply(leaves, x, dropout_key=key))(keys)

    def holds(samples, undropped):
        error = samples.std(0) / len(keys) ** 0.5
        assert (abs(samples.mean(0) - undropped) <= 6 * error + 1e-4).all()

    jax.tree.map(holds, drawn, layer.apply(leaves, x))


@pytest.mark.parametrize("name", DROPPING)
def test_dropout_is_a_function_of_its_key(name):
    layer = layer_of(name)
    x = layer.inputs["array"]
    y = layer.apply(layer.leaves, x, dropout_key=KEY)
    same(y, layer.apply(layer.leaves, x, dropout_key=KEY))
    for a, b, c in zip(
        *(
            jax.tree.leaves(z)
            for z in (y, layer.apply(layer.leaves, x, dropout_key=OTHER), layer.apply(layer.leaves, x))
        ),
        strict=True,
    ):
        assert (a != b).any()
        assert (a != c).any()
    same(layer.apply(layer.fresh, x, dropout_key=KEY), layer.apply(layer.fresh, x))


@pytest.mark.parametrize("name", [name for name, spec in CASES.items() if not spec.dropout])
def test_without_dropout_a_key_changes_nothing(name):
    layer = layer_of(name)
    for x in layer.inputs.values():
        same(layer.apply(layer.leaves, x, dropout_key=KEY), layer.apply(layer.leaves, x))


@pytest.mark.parametrize("mode", ["matrix", "addition"])
@pytest.mark.parametrize("base", ["shared", "per_task"])
def test_task_streams_handed_in_are_not_dropped(mode, base):
    layer = with_tasks(mode=mode, task_base=base, dropout=0.5)
    x = layer.inputs["streams"]
    dropped, plain = layer.apply(layer.leaves, x, dropout_key=KEY), layer.apply(layer.leaves, x)
    same(dropped.tasks, plain.tasks)
    assert (dropped.shared != plain.shared).any() == (mode == "matrix")


def test_every_stream_of_a_layer_without_tasks_has_its_own_mask():
    for name in ("lora, scaled", "no tasks"):
        layer = layer_of(name)
        x = layer.inputs["array"]
        y = layer.apply(layer.leaves, Streams(x, jnp.stack([x, x])), dropout_key=KEY)
        assert abs(y.shared - y.tasks[0]).max() > 0.1
        assert abs(y.tasks[0] - y.tasks[1]).max() > 0.1


# --- tasks


@pytest.mark.parametrize("name", [name for name in CASES if len(layer_of(name).tasks) == 2])
@every_form
def test_tasks_do_not_touch_each_other(name, form):
    layer = layer_of(name)
    x = layer.inputs[form]
    weights = jnp.arange(1.0, 1 + OUT).reshape(1, 1, OUT)
    shared, *tasks = (
        jax.grad(lambda leaves, pick=pick: (pick(layer.apply(leaves, x)) * weights).sum())(layer.leaves)
        for pick in (lambda y: y.shared, lambda y: y.tasks[0], lambda y: y.tasks[1])
    )
    for task, gradients in zip(layer.tasks, tasks, strict=True):
        for leaf_name, g in gradients.items():
            owner = leaf_name.rpartition("_")[0]
            if owner == task:
                assert g.any() or not g.size, leaf_name
            elif owner != "shared":
                assert not g.any(), leaf_name
    touched = [n for n, g in shared.items() if n.rpartition("_")[0] in layer.tasks and g.any()]
    # Mode addition is the exception: its shared output is built from the tasks'.
    assert bool(touched) == (getattr(layer.spec, "mode", "") == "addition")


@pytest.mark.parametrize("name", [name for name in CASES if len(layer_of(name).tasks) == 2])
def test_a_task_reads_its_own_stream_and_no_other_s(name):
    layer = layer_of(name)
    x = layer.inputs["streams"]
    y = layer.apply(layer.leaves, x).tasks
    for t in range(2):
        changed = layer.apply(layer.leaves, Streams(x.shared, x.tasks.at[t].add(1.0))).tasks
        assert (changed[t] != y[t]).any() or getattr(layer.spec, "task_ranks", (1, 1))[t] == 0
        same(changed[1 - t], y[1 - t])
