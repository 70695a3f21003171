"""What a traced program needs of its inputs."""

import jax
import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import checkpoint_name

from mtlora_jax.engine.program import unread_leaves

X = jnp.ones((2, 3))
A, B = jnp.ones((3, 2)), jnp.ones((3, 4))


def joined(tree):
    """Two matrices in one product, of which the columns of one are used."""
    product = X @ jnp.concatenate([tree["a"], tree["b"]], axis=1)
    return product[:, :2]


def named(tree):
    """The same, of a product that has a name; and a named one that nobody uses."""
    checkpoint_name(X @ tree["c"], "unused")
    return checkpoint_name(X @ jnp.concatenate([tree["a"], tree["b"]], axis=1), "both")[:, :2]


def scanned(tree):
    def turn(carry, row):
        # `late` reaches the result by the second turn.
        return (carry[1], tree["late"] * row.sum()), carry[0]

    return jax.lax.scan(turn, (jnp.zeros(()), jnp.zeros(())), tree["rows"])[1]


@pytest.mark.parametrize(
    ("fn", "tree", "unread"),
    [
        (lambda tree: tree["a"], {"a": A, "b": B}, {"b"}),
        (lambda tree: (tree["a"] * 0, tree["b"].shape[0]), {"a": A, "b": B}, {"b"}),
        (joined, {"a": A, "b": B}, {"b"}),
        (jax.jit(joined), {"a": A, "b": B}, {"b"}),
        (named, {"a": A, "b": B, "c": A}, {"b", "c"}),
        (lambda tree: joined(tree).astype(jnp.bfloat16)[::2, 1:], {"a": A, "b": B}, {"b"}),
        (lambda tree: (joined(tree), tree["b"][:, 1]), {"a": A, "b": B}, set()),
        # Rows that nobody uses are not looked at: a leaf is then read, at worst.
        (lambda tree: jnp.concatenate([tree["a"].T, tree["b"].T])[:2], {"a": A, "b": B}, set()),
        (scanned, {"late": jnp.ones(()), "rows": jnp.ones((3, 2)), "never": A}, {"never"}),
        (lambda tree: jax.lax.cond(tree["a"][0, 0] > 0, lambda: 1.0, lambda: tree["b"].sum()), {"a": A, "b": B}, set()),
        (lambda tree: jnp.zeros((0, 3)) @ tree["a"], {"a": A, "b": B}, {"b"}),
        (lambda tree: A + jnp.pad(X[:, :0] @ tree["none"], ((0, 1), (0, 2))), {"none": X[:0, :0]}, {"none"}),
    ],
)  # fmt: skip
def test_leaves_that_no_output_depends_on(fn, tree, unread):
    assert unread_leaves(fn, tree) == unread


def test_the_arguments_beside_the_tree_are_not_its_leaves():
    assert unread_leaves(lambda tree, x: x @ tree["a"], {"a": A, "b": B}, X) == {"b"}
