"""Counter-based random numbers: each depends only on its stream's key and its position in the stream.

A stream thus draws the same numbers whatever runs beside it, and however many steps are computed at once.
Letters in shapes: K steps, B streams, V vocabulary size.
"""

import hashlib

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))
_BELOW_ONE = 1 - 2**-24


def stream_key(*parts: int) -> int:
    """The key of the stream that these numbers identify: 64 bits, as a signed integer."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def gumbel(keys: Tensor, begin: Tensor, num_steps: int, vocab_size: int) -> Tensor:
    """Standard Gumbel noise (K, B, V) for K steps from `begin` (B,) on, in the streams with these keys (B,) int64.

    Source: SplitMix64, seeded with the key (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators",
    2014).
    """
    step = torch.arange(num_steps, device=keys.device)[:, None] + begin  # (K, B)
    counter = step[:, :, None] * vocab_size + torch.arange(vocab_size, device=keys.device)
    bits = counter.mul_(_GOLDEN).add_(keys[:, None])
    for shift, factor in _MIX:
        bits = _fold(bits, shift).mul_(factor)
    bits = _fold(bits, 31).bitwise_and_(2**63 - 1)
    # Uniform to exponential to Gumbel: small numbers keep their precision, and none is infinite.
    uniform = bits.float().mul_(2.0**-63).clamp_(2.0**-63, _BELOW_ONE)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def _fold(bits: Tensor, shift: int) -> Tensor:
    """bits ^ (bits >> shift), unsigned and in place."""
    return bits.bitwise_xor_((bits >> shift).bitwise_and_(2 ** (64 - shift) - 1))
