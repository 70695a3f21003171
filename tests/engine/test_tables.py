"""Tables: order, completeness, and what they print."""

import jax
import jax.numpy as jnp
import optax
import pytest

from mtlora_jax.engine.tables import (
    count,
    flatten,
    label_paths,
    label_tree,
    match,
    parameter_table,
    paths,
    text_table,
)
from mtlora_jax.errors import UserError

TREE = {
    "params": {"a": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}, "b": {"kernel": jnp.zeros((3, 1))}},
    "lora": {"a": {"A": jnp.zeros((2, 2))}},
}
TABLE = ((r"^lora/", "decay"), (r"/bias$", "no_decay"), (r"^never/", "never"), (r"^params/a/", "frozen"), ("", "rest"))


def test_paths_follow_the_leaves():
    assert paths(TREE) == ["lora/a/A", "params/a/bias", "params/a/kernel", "params/b/kernel"]
    assert [leaf.shape for leaf in flatten(TREE).values()] == [leaf.shape for leaf in jax.tree.leaves(TREE)]
    state = optax.adam(1e-3).init(TREE["lora"])
    assert paths(state) == ["0/count", "0/mu/a/A", "0/nu/a/A"]
    assert paths(({"x": 1}, [2])) == ["0/x", "1/0"]


def test_first_match_wins():
    assert match(TABLE, "params/a/bias") == "no_decay"
    assert match(TABLE, "params/a/kernel") == "frozen"
    assert match(TABLE[:1], "params/a/kernel") is None
    assert match(TABLE[:1], "params/a/kernel", default="?") == "?"


def test_labels_have_the_trees_structure_and_unused_rows_are_reported():
    labels, unused = label_tree(TABLE, TREE)
    assert labels == {
        "params": {"a": {"kernel": "frozen", "bias": "no_decay"}, "b": {"kernel": "rest"}},
        "lora": {"a": {"A": "decay"}},
    }
    assert unused == ["^never/"]
    # A row hidden by earlier ones is unused as well.
    assert label_paths((("a", 1), ("aa", 2)), ["aa"]) == ({"aa": 1}, ["aa"])


def test_every_leaf_must_match():
    with pytest.raises(
        UserError, match=r"^no row of the table matches params/a/bias, params/a/kernel, params/b/kernel$"
    ):
        label_tree(TABLE[:1], TREE)
    with pytest.raises(UserError, match=r"x0, x1, x2, x3, x4 and 95 more$"):
        label_paths((), [f"x{i}" for i in range(100)])


def test_parameter_table():
    labels, _ = label_paths(TABLE, paths(TREE))
    shapes = jax.eval_shape(lambda: TREE)
    assert count(shapes) == 16
    assert parameter_table(shapes, labels).splitlines() == [
        "label     module    arrays  parameters",
        "--------  --------  ------  ----------",
        "decay     lora/a         1           4",
        "frozen    params/a       1           6",
        "no_decay  params/a       1           3",
        "rest      params/b       1           3",
        "parameters: 16 total, 10 trainable (62.50%)",
    ]
    assert parameter_table({}, {}).endswith("parameters: 0 total, 0 trainable")


def test_text_table():
    assert text_table(("task", "n", "figure"), [("semseg", 1234, 0.51234), ("x", None, -12345.678)]).splitlines() == [
        "task        n     figure",
        "------  -----  ---------",
        "semseg  1,234     0.5123",
        "x           -  -12,345.7",
    ]
    assert text_table(("a", "b"), []) == "a  b\n-  -"
