"""Dropout: how much is dropped, and that its bits look drawn and are the same on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mtlora_jax.adapters.dropout import dropout, words

KEY = jax.random.key(3)
SHAPE = (1024, 1024)


@pytest.mark.parametrize("rate", [0.05, 0.5, 1e-5, 1e-7, 0.9999999, 1 - 2**-53])
@pytest.mark.parametrize("width", [7, 8])
def test_as_many_entries_are_dropped_as_the_rate_says(rate, width):
    x = jnp.full((100_000, width), 2.0)
    y = np.asarray(dropout(x, rate, KEY))
    share, deviation = (y == 0).mean(), (rate * (1 - rate) / y.size) ** 0.5
    assert abs(share - rate) <= 5 * deviation + 2**-32
    np.testing.assert_allclose(y[y != 0], 2 / (1 - min(rate, 1 - 2**-32)), rtol=1e-6)
    assert dropout(x, rate, None) is x
    assert dropout(x, 0.0, KEY) is x
    assert dropout(x.astype(jnp.bfloat16), rate, KEY).dtype == jnp.bfloat16


def by_hand(key, row, column):
    def mixed(x):
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
        return x ^ x >> 16

    first, second = map(int, jax.random.bits(key, (2,)))
    return mixed((mixed(column ^ mixed(row ^ first)) + mixed(row ^ second)) % 2**32)


def test_a_word_is_a_function_of_key_row_and_column():
    found = np.asarray(words(KEY, (3, 4, 5)))
    for row in range(12):
        assert found.reshape(12, 5)[row].tolist() == [by_hand(KEY, row, column) for column in range(5)]
    assert words(KEY, (2,)).tolist() == [by_hand(KEY, 0, 0), by_hand(KEY, 0, 1)]


def normal(chi_squared, freedom):
    """How many deviations a statistic lies from its mean; its distribution is near the normal one."""
    return abs(chi_squared - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("seed", range(3))
def test_all_bytes_come_equally_often(seed):
    found = np.asarray(words(jax.random.key(seed), SHAPE))
    for byte in found.view(np.uint8).reshape(-1, 4).T:
        expected = byte.size / 256
        assert normal(((np.bincount(byte, minlength=256) - expected) ** 2 / expected).sum(), 255) < 5
    # Pairs of neighbours' highest four bits, down and across.
    high = (found >> 28).astype(int)
    for pairs in (high[1:] * 16 + high[:-1], high[:, 1:] * 16 + high[:, :-1]):
        expected = pairs.size / 256
        assert normal(((np.bincount(pairs.ravel(), minlength=256) - expected) ** 2 / expected).sum(), 255) < 5


def far(a, b):
    """The largest share, in deviations, by which one bit of two arrays of words agrees too often or too seldom."""
    agree = [(~(a ^ b) >> bit & 1).mean() for bit in range(32)]
    return max(abs(share - 0.5) for share in agree) * 2 * a.size**0.5


@pytest.mark.parametrize("step", [1, 2, 7, 16, 64, 256, 512])
def test_words_a_step_apart_are_strangers(step):
    found = np.asarray(words(KEY, SHAPE))
    assert far(found[step:], found[:-step]) < 5.5
    assert far(found[:, step:], found[:, :-step]) < 5.5


def test_words_of_two_keys_and_of_two_rows_are_strangers():
    keys = jax.random.split(KEY, 4)
    arrays = [np.asarray(words(key, SHAPE)) for key in keys]
    assert max(far(a, b) for i, a in enumerate(arrays) for b in arrays[:i]) < 5.5
    tall = np.asarray(words(KEY, (1 << 18, 4)))
    assert len(np.unique(tall, axis=0)) == len(tall)


def test_a_mesh_draws_the_same_bits_without_sending_any():
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    cut = NamedSharding(mesh, PartitionSpec("data", None, "tensor"))
    x = jnp.ones((8, 6, 16))
    drawn = jax.jit(lambda x: dropout(x, 0.5, KEY), in_shardings=cut, out_shardings=cut).lower(x).compile()
    assert not any(word in drawn.as_text() for word in ("all-gather", "all-reduce", "collective-permute", "all-to-all"))
    np.testing.assert_array_equal(drawn(jax.device_put(x, cut)), dropout(x, 0.5, KEY))
