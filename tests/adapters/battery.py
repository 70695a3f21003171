"""The contract of adapter methods, as checks over the registry: a method that registers itself gets all of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import IDS, IN, KEY, OUT, B, Layer, N, close, flat, parts, plain, same
from flax import traverse_util

from mtlora_jax.adapters import CannotMerge, Dense, Streams, leaf

CHECKS: list[Callable[[Layer], None]] = []


def check(function: Callable[[Layer], None]) -> Callable[[Layer], None]:
    CHECKS.append(function)
    return function


# --- leaves


@check
def leaves_are_drawn_as_declared_each_from_its_own_key(layer: Layer):
    declared = flat(layer.method.declare(layer.spec, IN, OUT))
    fresh = flat(layer.fresh)
    assert {n: (x.shape, x.dtype) for n, x in fresh.items()} == {n: (d.shape, jnp.float32) for n, d in declared.items()}
    for path, d in traverse_util.flatten_dict(layer.method.declare(layer.spec, IN, OUT)).items():
        alone = leaf.draw(traverse_util.unflatten_dict({path: d}), jax.random.key(0))
        same(flat(alone)["/".join(path)], fresh["/".join(path)])
    other = flat(layer.method.init(layer.spec, jax.random.key(1), IN, OUT))
    drawn = [n for n, x in fresh.items() if x.size and np.ptp(x) > 0 and "identity" not in n]
    assert not drawn or any((fresh[n] != other[n]).any() for n in drawn)
    many = jax.vmap(lambda key: layer.method.init(layer.spec, key, IN, OUT))(jax.random.split(jax.random.key(2), 3))
    assert {n: x.shape for n, x in flat(many).items()} == {n: (3, *d.shape) for n, d in declared.items()}


@check
def a_task_s_leaves_lie_below_its_name_and_all_tasks_have_the_same(layer: Layer):
    own = layer.fresh.get("tasks", {})
    assert set(own) in (set(), set(layer.tasks))
    assert len({tuple(sorted(of)) for of in own.values()}) <= 1


# --- apply


@check
def a_fresh_adapter_changes_nothing(layer: Layer):
    """Stated exception: an output that normalises something of the tasks (MTLoRA's mode addition)."""
    for x in layer.inputs.values():
        given = parts(x, layer.tasks)
        for t, y in parts(layer.apply(layer.fresh, x), layer.tasks).items():
            if t == "shared" and getattr(layer.spec, "mode", "") == "addition":
                continue
            shared = bool(layer.tasks) and getattr(layer.spec, "task_base", "") == "shared"
            own = given["shared"] if shared else given.get(t, given["shared"])
            np.testing.assert_allclose(y, plain(own, *layer.base), rtol=1e-5, atol=2e-6, err_msg=t)


@check
def the_result_has_the_input_s_type_or_streams_of_the_tasks(layer: Layer):
    for form, x in layer.inputs.items():
        y = layer.apply(layer.leaves, x)
        makes_streams = bool(layer.tasks) and layer.spec.takes_streams
        assert isinstance(y, Streams) == (form == "streams" or makes_streams)
        assert {a.dtype for a in jax.tree.leaves(y)} == {jnp.dtype(jnp.float32)}


@check
def streams_and_missing_task_ids_are_refused_where_the_spec_says_so(layer: Layer):
    x = layer.inputs["array"]
    if not layer.spec.takes_streams:
        with pytest.raises(ValueError, match="takes no task streams"):
            layer.apply(layer.leaves, Streams(x, jnp.stack([x, x, x])))
    if layer.spec.needs_task_id:
        for ids in (None, jnp.zeros(B + 1, int), jnp.zeros((B, N + 1), int), jnp.zeros((), int)):
            with pytest.raises(ValueError, match="task_id"):
                layer.apply(layer.leaves, x, ids)
    elif layer.tasks and layer.spec.takes_streams:
        with pytest.raises(ValueError, match=r"2 task streams reached a layer of 3 tasks: a, b, c"):
            layer.apply(layer.leaves, Streams(x, jnp.stack([x, x])))


@check
def ids_of_tokens_and_of_examples_agree_and_examples_may_be_mixed(layer: Layer):
    if not layer.spec.needs_task_id:
        return
    x, leaves = layer.inputs["array"], layer.leaves
    together = layer.apply(leaves, x)
    np.testing.assert_allclose(layer.apply(leaves, x, jnp.repeat(IDS[:, None], N, 1)), together, atol=1e-5)
    for row in range(B):
        alone = layer.apply(leaves, x[row : row + 1], IDS[row : row + 1])
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)
    mixed = jnp.array([[0, 1]] * B)
    for token in range(N):
        alone = layer.apply(leaves, x[:, token : token + 1], mixed[:, token])
        np.testing.assert_allclose(layer.apply(leaves, x, mixed)[:, token], alone[:, 0], atol=1e-5)


@check
def an_id_out_of_range_gives_nan_to_its_own_example_alone(layer: Layer):
    if not layer.spec.needs_task_id:
        return
    for bad in (3, -1, 99):
        y = layer.apply(layer.leaves, layer.inputs["array"], IDS.at[1].set(bad))
        assert np.isnan(y[1]).any(-1).all()
        assert np.isfinite(y[0]).all()


@check
def in_bfloat16_leaves_and_gradients_stay_float32(layer: Layer):
    for x in layer.inputs.values():
        half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), x)
        y = jax.eval_shape(layer.apply, layer.leaves, half)
        assert {a.dtype for a in jax.tree.leaves(y)} == {jnp.dtype(jnp.bfloat16)}

        def loss(leaves, half=half):
            return sum(a.astype(jnp.float32).sum() for a in jax.tree.leaves(layer.apply(leaves, half)))

        gradient = jax.eval_shape(jax.grad(loss), layer.leaves)
        assert {g.dtype for g in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}


@check
def any_leading_axes_will_do(layer: Layer):
    for lead in ((2,), (2, 3, 4, 5)):
        ids = jnp.zeros(lead[:1], int)
        x = jax.ShapeDtypeStruct((*lead, IN), jnp.float32)
        y = jax.eval_shape(lambda x, ids=ids: layer.apply(layer.leaves, x, ids), x)
        first = [(*lead, OUT)]
        streams = [(len(layer.tasks), *lead, OUT)] if layer.tasks and layer.spec.takes_streams else []
        assert [a.shape for a in jax.tree.leaves(y)] == first + streams


# --- delta, merge, export


def refusal(function, *args) -> str:
    """The reason why a function refuses to merge or export; nothing where it does not."""
    try:
        function(*args)
    except CannotMerge as reason:
        return str(reason)
    return ""


@check
def merging_is_exact_or_refused_with_a_reason(layer: Layer):
    leaves, (kernel, bias) = layer.leaves, layer.base
    for t in layer.streams():
        args = layer.spec, leaves, kernel
        if refusal(layer.method.merge, *args, bias, t):
            assert refusal(layer.method.delta, *args, t)
            assert refusal(layer.method.export, *args, t)
            continue
        merged = layer.method.merge(*args, bias, t)
        delta = layer.method.delta(*args, t)
        assert delta.shape == (IN, OUT)
        np.testing.assert_allclose(merged[0], kernel + delta, rtol=1e-6, atol=1e-6)
        assert layer.method.merge(*args, None, t)[1] is None
        half = layer.method.merge(layer.spec, leaves, kernel.astype(jnp.bfloat16), None, t)[0]
        exact = kernel.astype(jnp.bfloat16) + layer.method.delta(layer.spec, leaves, kernel.astype(jnp.bfloat16), t)
        same(half, exact.astype(jnp.bfloat16))
        if not refusal(layer.method.export, *args, t):
            down, up = layer.method.export(*args, t)
            np.testing.assert_allclose(down @ up, delta, rtol=1e-5, atol=1e-5)
        for x in layer.inputs.values():
            given, name = parts(x, layer.tasks), t or "shared"
            if layer.spec.needs_task_id:
                ids = jnp.full(B, layer.tasks.index(t))
                y, name = layer.apply(leaves, x, ids), "shared"
            else:
                y = parts(layer.apply(leaves, x), layer.tasks)[name]
            np.testing.assert_allclose(plain(given.get(name, given["shared"]), *merged), y, rtol=1e-4, atol=2e-5)


@check
def a_task_that_the_layer_lacks_cannot_be_merged(layer: Layer):
    if layer.tasks:
        with pytest.raises(CannotMerge, match=r"a, b, c|routes every token"):
            layer.method.delta(layer.spec, layer.leaves, layer.base[0], "z")


# --- transformations


def smooth(layer: Layer, point) -> jax.Array:
    """A curved scalar of a layer's output, of every argument that one may want a derivative of."""
    leaves, kernel, bias, x = point
    ids = IDS if layer.spec.needs_task_id else None
    y = layer.method.apply(layer.spec, leaves, kernel, bias, x, task_id=ids)
    return sum(jnp.sin(a).sum() for a in jax.tree.leaves(y))


def direction(point, seed=7):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape) / 4, jnp.float32), point)


def inner(a, b) -> float:
    return float(sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)))


@check
def derivatives_agree_with_each_other_and_with_differences(layer: Layer):
    if getattr(layer.spec, "simple", False):
        return  # a norm that counts as a constant has a derivative of its own kind
    for x in layer.inputs.values():
        point = (layer.leaves, *layer.base, x)
        v, w = direction(point), direction(point, 8)

        def f(p):
            return smooth(layer, p)

        def at(h, point=point, v=v):
            return jax.tree.map(lambda a, d: a + h * d, point, v)

        value, slope = jax.jvp(f, (point,), (v,))
        gradient = jax.grad(f)(point)
        np.testing.assert_allclose(value, f(point), rtol=1e-5)
        np.testing.assert_allclose(inner(gradient, v), slope, rtol=1e-3, atol=1e-3)
        h = 1e-2
        np.testing.assert_allclose((f(at(h)) - f(at(-h))) / (2 * h), slope, rtol=2e-2, atol=5e-2)
        curvature = jax.jvp(jax.grad(f), (point,), (v,))[1]
        np.testing.assert_allclose(
            (inner(jax.grad(f)(at(h)), w) - inner(jax.grad(f)(at(-h)), w)) / (2 * h),
            inner(curvature, w),
            rtol=3e-2,
            atol=3e-2 * max(1.0, abs(inner(curvature, w))),
        )


@check
def specs_are_static_arguments_and_adapters_are_an_axis(layer: Layer):
    x = next(reversed(layer.inputs.values()))
    ids = IDS if layer.spec.needs_task_id else None
    jitted = jax.jit(layer.method.apply, static_argnums=0)
    close(jitted(layer.spec, layer.leaves, *layer.base, x, task_id=ids), layer.apply(layer.leaves, x))
    two = jax.tree.map(lambda a, b: jnp.stack([a, b]), layer.leaves, layer.fresh)
    both = jax.vmap(lambda leaves: layer.apply(leaves, x))(two)
    for i, leaves in enumerate((layer.leaves, layer.fresh)):
        close(jax.tree.map(lambda a, i=i: a[i], both), layer.apply(leaves, x))


# --- dropout


@check
def dropout_is_a_function_of_its_key_and_leaves_the_base_alone(layer: Layer):
    for x in layer.inputs.values():
        still = layer.apply(layer.leaves, x)
        y = layer.apply(layer.leaves, x, dropout_key=KEY)
        same(y, layer.apply(layer.leaves, x, dropout_key=KEY))
        if not layer.spec.dropout:
            same(y, still)
            continue
        other = layer.apply(layer.leaves, x, dropout_key=jax.random.key(6))
        assert (
            all((a != b).any() for a, b in zip(*map(jax.tree.leaves, (y, other)), strict=True))
            or len(layer.inputs) == 2
        )
        assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (y, still)), strict=True))
        close(layer.apply(layer.fresh, x, dropout_key=KEY), layer.apply(layer.fresh, x))


# --- tasks


@check
def one_task_s_loss_reaches_no_other_task_s_leaves(layer: Layer):
    if not layer.tasks:
        return
    for x in layer.inputs.values():
        for t, task in enumerate(layer.tasks):

            def loss(leaves, x=x, t=t):
                ids = jnp.full(B, t) if layer.spec.needs_task_id else None
                y = layer.apply(leaves, x, ids)
                return ((y.tasks[t] if isinstance(y, Streams) else y) ** 2).sum()

            gradient = jax.grad(loss)(layer.leaves)["tasks"]
            for owner, own in gradient.items():
                for name, value in own.items():
                    # One up-projection leaves nothing to mix.
                    fixed = name == "mix" and getattr(layer.spec, "up_projections", 2) == 1
                    assert bool(np.any(value)) == (owner == task and not fixed and bool(value.size)), (owner, name)


@check
def the_flax_face_is_the_function(layer: Layer):
    kernel, bias = layer.base
    variables = {"params": {"kernel": kernel, "bias": bias}, "lora": layer.leaves}
    ids = IDS if layer.spec.needs_task_id else None
    module = Dense(OUT, adapter=layer.spec)
    for x in layer.inputs.values():
        same(module.apply(variables, x, task_id=ids), layer.apply(layer.leaves, x))
    drawn = jax.eval_shape(lambda: module.init(jax.random.key(0), layer.inputs["array"], task_id=ids))["lora"]
    assert {n: a.shape for n, a in flat(drawn).items()} == {n: a.shape for n, a in flat(layer.fresh).items()}
