"""Tables and lists as plain text."""

from mtlora_jax.listing import listed, text_table


def test_text_table():
    assert text_table(("task", "n", "metric"), [("semseg", 1234, 0.51234), ("x", None, -12345.678)]).splitlines() == [
        "task        n     metric",
        "------  -----  ---------",
        "semseg  1,234     0.5123",
        "x           -  -12,345.7",
    ]
    assert text_table(("a", "b"), []) == "a  b\n-  -"


def test_long_lists_are_counted():
    assert listed("abc") == "a, b, c"
    assert listed(map(str, range(100))) == "0, 1, 2, 3, 4 and 95 more"
    assert listed([]) == ""
