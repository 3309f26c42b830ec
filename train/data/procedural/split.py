"""Which combinations are kept out of training.

A (category, colour) pair is held out if a hash of its names says so: one pair in ten, the same for ever.
"""

import hashlib


def held_out_pair(category: str, color: str) -> bool:
    """Whether the pair of names never occurs in training."""
    digest = hashlib.blake2s(f"{category}|{color}".encode()).digest()
    return digest[0] * 256 + digest[1] < 6554


def is_held_out(spec) -> bool:
    """Whether an AssetSpec belongs to the test split."""
    return held_out_pair(spec.category, spec.color)
