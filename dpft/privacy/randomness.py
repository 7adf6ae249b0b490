"""Secret randomness: a cryptographic keystream, keyed by the operating system and never written."""

from __future__ import annotations

import os
from typing import NoReturn

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

_WORD = 2.0**-64


class Secret:
    """Random coins and normals from AES-256 in counter mode, with a fresh key from the operating system.

    The key exists in this process only. A Secret has no seed, cannot be copied or pickled, and draws a new key after
    a fork, so that two processes never share noise.
    """

    def __init__(self) -> None:
        self._rekey()

    def _rekey(self) -> None:
        self._process = os.getpid()
        self._stream = Cipher(AES256(os.urandom(32)), CTR(os.urandom(16))).encryptor()

    def words(self, count: int) -> NDArray[np.uint64]:
        """`count` uniform 64-bit words."""
        if os.getpid() != self._process:
            self._rekey()
        return np.frombuffer(self._stream.update(bytes(8 * count)), dtype="<u8")

    def bernoulli(self, rate: float, count: int) -> NDArray[np.bool_]:
        """`count` independent coins, each true with probability floor(rate * 2^64) / 2^64 <= rate."""
        if not 0 < rate <= 1:
            raise ValueError(f"rate must lie in (0, 1], got {rate!r}; pass a probability")
        words = self.words(count)
        threshold = int(rate * 2**64)
        return np.ones(count, dtype=bool) if threshold >= 2**64 else words < np.uint64(threshold)

    def normal(self, count: int) -> NDArray[np.float64]:
        """`count` standard normals in float64 by Box and Muller (1958): 64-bit uniforms reach 9.4 sigma."""
        half = (count + 1) // 2
        words = self.words(2 * half).astype(np.float64)
        radius = np.sqrt(-2.0 * np.log((words[:half] + 1.0) * _WORD))
        angle = 2.0 * np.pi * (words[half:] * _WORD)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret must not leave its process, got a copy or pickle of it; make a new Secret()")
