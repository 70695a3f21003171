"""What is written in a compiled program: arrays, their layouts, groups of devices."""

import pytest

from mtlora_jax.plan.hlo import groups_of, hbm_of, sizes_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("replica_groups=[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups={{0,2},{1,3}}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1]]),
        ("replica_groups={}", None),
    ],
)
def test_groups(text, expected):
    assert groups_of(text) == expected


def test_sizes_of_written_shapes():
    assert sizes_of("(f32[2,3]{1,0}, bf16[4]{0:T(128)S(1)}, pred[], s4[8])") == [24, 8, 1, 4]
    assert sizes_of("f8e4m3fn[10]") == [10]
    assert sizes_of("u16[3]") == [6]
    assert sizes_of("token[]") == []


def test_what_lies_in_memory_has_whole_tiles_and_is_not_on_the_chip():
    assert hbm_of("(f32[2,3]{1,0}, bf16[4]{0:T(128)S(1)})") == 24
    assert hbm_of("bf16[64,49,32]{2,1,0:T(8,128)(2,1)}") == 64 * 56 * 128 * 2
    assert hbm_of("bf16[64,49,32]{0,2,1:T(8,128)(2,1)}") == 49 * 32 * 128 * 2
    assert hbm_of("f32[]{:T(128)}") == 128 * 4
    assert hbm_of("f32[4]{0:T(2,128)}") == 2 * 128 * 4
