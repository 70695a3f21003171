"""Tables: order, completeness, and what they print."""

import jax
import jax.numpy as jnp
import optax
import pytest

from mtlora_jax.engine.tables import count, flatten, label_paths, match, owner, parameter_table, paths, unmatched_rows
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


def test_every_path_is_labelled_and_rows_that_match_nothing_are_reported():
    assert label_paths(TABLE, paths(TREE)) == {
        "lora/a/A": "decay",
        "params/a/bias": "no_decay",
        "params/a/kernel": "frozen",
        "params/b/kernel": "rest",
    }
    assert unmatched_rows(TABLE, paths(TREE)) == ["^never/"]
    # A row hidden by earlier ones matches nothing either.
    assert unmatched_rows((("a", 1), ("aa", 2)), ["aa"]) == ["aa"]


def test_a_leaf_s_owner_is_read_off_its_path_whatever_tasks_are_called():
    rows = (("^params/heads_nli/", "nli"), ("^params/heads_nli_hard/", "nli_hard"))
    for task in ("nli", "nli_hard", "nli_A", "shared", "ARC-Easy"):
        assert owner((), f"lora/layer/tasks/{task}/A") == task
        assert owner((), f"0/mu/lora/layer/tasks/{task}/A") == task
    assert owner(rows, "params/heads_nli_hard/out/kernel") == "nli_hard"
    assert owner(rows, "lora/layer/shared_A") is None


def test_every_leaf_must_match():
    with pytest.raises(
        UserError, match=r"^no row of the table matches params/a/bias, params/a/kernel, params/b/kernel$"
    ):
        label_paths(TABLE[:1], paths(TREE))
    with pytest.raises(UserError, match=r"x0, x1, x2, x3, x4 and 95 more$"):
        label_paths((), [f"x{i}" for i in range(100)])


def test_parameter_table():
    labels = label_paths(TABLE, paths(TREE))
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
