"""Hashes of arrays, each computed once: passes share the arrays of constants; caches and reports ask for them often."""

from __future__ import annotations

import hashlib
import weakref

import numpy as np

from tinyopt.ir import Array

_DIGESTS: dict[int, tuple[weakref.ref[Array], bytes]] = {}  # by the identity of arrays that are alive


def digest_array(array: Array) -> bytes:
    """A SHA-256 hash of type, shape and content. The array cannot be written to from then on."""
    key = id(array)
    known = _DIGESTS.get(key)
    if known is not None and known[0]() is array:
        return known[1]
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    array.setflags(write=False)  # or what is remembered of it would no longer be true
    _DIGESTS[key] = weakref.ref(array, lambda _: _DIGESTS.pop(key, None)), digest.digest()
    return _DIGESTS[key][1]
