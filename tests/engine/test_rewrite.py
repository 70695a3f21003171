"""Rewritten programs compute what they did, in every direction of differentiation that reaches them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlora_jax.engine.rewrite import FEW_TERMS, rewritten

PLATFORMS = ("cpu", "gpu", "tpu")


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def draw(*shapes):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)


def kinds(fn, *args) -> list[str]:
    return [eqn.primitive.name for eqn in jax.make_jaxpr(fn)(*args).eqns]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_product_is_the_same(data):
    batch = data.draw(st.lists(st.integers(1, 3), max_size=2))
    shared = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    free = [data.draw(st.lists(st.integers(1, 12), max_size=2)) for _ in range(2)]
    orders = []
    for own in free:
        letters = [*range(len(batch)), *range(10, 10 + len(shared)), *range(20, 20 + len(own))]
        orders.append(data.draw(st.permutations(letters)))
    sizes = [dict(zip(range(len(batch)), batch, strict=True)) for _ in free]
    for of, own in zip(sizes, free, strict=True):
        of |= dict(zip(range(10, 10 + len(shared)), shared, strict=True))
        of |= dict(zip(range(20, 20 + len(own)), own, strict=True))
    x, y = draw(*(tuple(of[i] for i in order) for of, order in zip(sizes, orders, strict=True)))
    places = [[order.index(i) for i in range(10, 10 + len(shared))] for order in orders]
    batches = [[order.index(i) for i in range(len(batch))] for order in orders]

    def product(x, y):
        return jax.lax.dot_general(x, y, (tuple(places), tuple(batches)))

    for platform in PLATFORMS:
        close(rewritten(product, platform)(x, y), product(x, y))


def test_the_larger_operand_is_not_transposed_on_a_cpu():
    x, w = draw((64, 16), (16, 48))

    def gradient(w):
        return jax.grad(lambda w: (jnp.sin(x @ w) ** 2).sum())(w)

    def operands(fn):
        dots = [eqn for eqn in jax.make_jaxpr(fn)(w).eqns if eqn.primitive.name == "dot_general"]
        return [eqn.invars[0].aval.shape for eqn in dots if eqn.params["dimension_numbers"][0][0] == (0,)]

    assert operands(gradient) == [(64, 48)]
    assert operands(rewritten(gradient, "cpu")) == [(64, 16)]
    assert operands(rewritten(gradient, "gpu")) == [(64, 48)]
    close(rewritten(gradient, "cpu")(w), gradient(w))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_few_terms_are_added_up(platform):
    x, y = draw((5, 3, FEW_TERMS), (FEW_TERMS, 7))
    assert "dot_general" in kinds(jnp.matmul, x, y)
    assert "dot_general" not in kinds(rewritten(jnp.matmul, platform), x, y)
    wide = draw((5, 3, FEW_TERMS), (FEW_TERMS, FEW_TERMS + 1))
    assert ("dot_general" in kinds(rewritten(jnp.matmul, platform), *wide)) == (platform == "tpu")
    longer = draw((5, FEW_TERMS + 1), (FEW_TERMS + 1, 7))
    assert "dot_general" in kinds(rewritten(jnp.matmul, platform), *longer)


def test_few_terms_in_half_precision_are_added_in_float32():
    x, y = (a.astype(jnp.bfloat16) for a in draw((50, 8), (8, 60)))
    exact = np.asarray(x, np.float64) @ np.asarray(y, np.float64)
    found = rewritten(jnp.matmul, "gpu")(x, y)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("ids", [(7,), (3, 5)])
@pytest.mark.parametrize("row", [(), (3,), (3, 2)])
@pytest.mark.parametrize("mode", ["fill", "clip", "promise_in_bounds"])
def test_the_gradient_of_a_table_of_few_rows(ids, row, mode):
    table, weights = draw((4, *row), (*ids, *row))
    low, high = (0, 4) if mode == "promise_in_bounds" else (-5, 7)
    at = jnp.asarray(np.random.default_rng(1).integers(low, high, ids))

    def gradient(table):
        return jax.grad(lambda t: (t.at[at].get(mode=mode) * weights).sum())(table)

    close(rewritten(gradient, "gpu")(table), gradient(table))
    assert ("scatter-add" in kinds(rewritten(gradient, "gpu"), table)) == (mode == "clip")


def test_a_row_that_is_not_finite_reaches_no_other():
    table, at, weights = jnp.zeros((3, 2)), jnp.array([0, 2, 0]), jnp.array([[1.0, 2], [jnp.nan, jnp.inf], [3, 4]])
    found = rewritten(jax.grad(lambda t: (t[at] * weights).sum()), "gpu")(table)
    np.testing.assert_array_equal(found, [[4, 6], [0, 0], [jnp.nan, jnp.inf]])


def test_streams_are_added_one_by_one_on_a_cpu():
    (x,) = draw((4, 6, 5))
    assert kinds(rewritten(lambda x: x.sum(0), "cpu"), x).count("add") == 3
    assert "reduce_sum" in kinds(rewritten(lambda x: x.sum(0), "gpu"), x)
    close(rewritten(lambda x: x.sum(0), "cpu")(x), x.sum(0))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_loops_branches_and_calls(platform):
    x, w = draw((9, 5), (4, 5, 5))

    @jax.jit
    def layer(x, w):
        return jnp.tanh(x @ w)

    def loss(w, flag):
        def body(x, w):
            x = jax.checkpoint(layer, prevent_cse=False)(x, w)
            x = jax.lax.cond(flag, lambda x: x @ w[0], lambda x: 2 * x @ w[0], x) if w.ndim == 3 else x
            return x, x.sum()

        y, sums = jax.lax.scan(body, x, w)
        y = jax.lax.cond(flag, lambda y: y @ w[0], lambda y: y - w.sum(), y)
        y = jax.lax.fori_loop(0, 3, lambda i, y: y * 0.5 + i, y)
        return (y**2).sum() + sums.sum()

    both = jax.value_and_grad(loss)
    for flag in (jnp.bool_(True), jnp.bool_(False)):
        close(rewritten(both, platform)(w, flag), both(w, flag))
        close(jax.jit(rewritten(both, platform))(w, flag), both(w, flag))
    scanned = jax.make_jaxpr(rewritten(loss, platform))(w, jnp.bool_(True))
    inner = next(eqn.params["jaxpr"].jaxpr for eqn in scanned.eqns if eqn.primitive.name == "scan")
    assert "dot_general" not in {eqn.primitive.name for eqn in inner.eqns}


def test_what_a_loop_computes_again():
    """A differentiated `jax.checkpoint` in a loop's body."""
    x, w, v = draw((20, 16), (3, 16, 2), (3, 2, 16))

    def loss(w):
        def layer(x, w):
            return jnp.tanh(x @ w[0] @ w[1]), None

        kept = jax.checkpoint_policies.dots_saveable
        return jax.lax.scan(jax.checkpoint(layer, policy=kept, prevent_cse=False), x, w)[0].sum()

    def gradient(w, v):
        return jax.grad(loss)((w, v))

    def short(fn):
        """Products of two terms."""
        found = []

        def look(jaxpr):
            for eqn in jaxpr.eqns:
                if eqn.primitive.name == "dot_general":
                    ((axis,), _), _ = eqn.params["dimension_numbers"]
                    found.append(eqn.invars[0].aval.shape[axis])
                for inner in eqn.params.values():
                    if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                        look(getattr(inner, "jaxpr", inner))

        look(jax.make_jaxpr(fn)(w, v).jaxpr)
        return found.count(2)

    assert short(gradient) == 2
    assert short(rewritten(gradient, "gpu")) == 0
    close(rewritten(gradient, "gpu")(w, v), gradient(w, v))


def test_a_tree_comes_back_as_it_was():
    def fn(tree, scale):
        return {"a": tree["b"] * scale, "n": None, "same": tree["b"], "one": 1.0}

    found = rewritten(fn, "cpu")({"b": jnp.arange(3.0)}, 2.0)
    assert found["n"] is None
    assert found["one"] == 1
    np.testing.assert_array_equal(found["a"], [0, 2, 4])
    np.testing.assert_array_equal(found["same"], [0, 1, 2])


def test_names_go_along():
    def fn(x, y):
        with jax.named_scope("head"):
            return jax.jit(lambda x, y: x @ y)(x, y)

    x, y = draw((40, 20), (20, 3))
    text = jax.jit(jax.grad(rewritten(lambda y: fn(x, y).sum(), "cpu"))).lower(y).as_text(debug_info=True)
    assert "head" in text
