"""Random numbers by key and place."""

import math

import torch

from charrnn.sampling.noise import gumbel, stream_key

GOLDEN, MASK = 0x9E3779B97F4A7C15, 2**64 - 1


def splitmix64(state: int) -> int:
    """The published finaliser, in Python's integers."""
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
    state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
    return state ^ state >> 31


def test_numbers_are_those_of_splitmix64() -> None:
    assert splitmix64(GOLDEN) == 0xE220A8397B1DCDAF  # the generator's first output from seed 0
    key = stream_key(3, 1)
    noise = gumbel(torch.tensor([key]), torch.tensor([2]), 1, 5)[0, 0]
    for v, value in enumerate(noise.tolist()):
        bits = splitmix64((key + (2 * 5 + v) * GOLDEN) & MASK) & (2**63 - 1)
        assert math.isclose(value, -math.log(-math.log1p(-bits / 2**63)), abs_tol=1e-5)


def test_stream_gets_the_same_noise_beside_any_others_and_in_any_chunks() -> None:
    keys = torch.tensor([stream_key(0, i) for i in range(5)])
    whole = gumbel(keys, torch.zeros(5, dtype=torch.int64), 20, 7)
    part = gumbel(keys[[3, 1]], torch.tensor([4, 12]), 6, 7)
    assert torch.equal(part[:, 0], whole[4:10, 3])
    assert torch.equal(part[:, 1], whole[12:18, 1])


def test_distribution_is_gumbel() -> None:
    noise = gumbel(torch.tensor([stream_key(7)]), torch.tensor([0]), 1000, 200).flatten().double()
    assert len(noise.unique()) > 0.95 * len(noise)
    uniform = (-(-noise).exp()).exp()
    counts = torch.histc(uniform, 100, 0, 1)
    chi_square = float(((counts - 2000) ** 2 / 2000).sum())
    assert chi_square < 149  # the 99.9 % quantile at 99 degrees of freedom
    assert noise.isfinite().all()


def test_keys_differ_in_every_part() -> None:
    parts = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0), (0, 0), (10, 0, 0)]
    assert len({stream_key(*numbers) for numbers in parts}) == len(parts)
    assert all(-(2**63) <= stream_key(*numbers) < 2**63 for numbers in parts)
