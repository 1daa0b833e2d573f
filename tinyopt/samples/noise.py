"""Noise in the place of samples: to run and to time a model, and to try what quantization would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import DTYPES, Array, Value
from tinyopt.samples.preprocessing import Preprocessing, to_inputs
from tinyopt.samples.stored import LazySamples, Sample

NOISE_SAMPLES = 64
NOISE_WARNING = (
    "WARNING: calibrated on random noise, so the ranges of all activations are guesses: expect wrong results. "
    "Give --calib samples of what the model will see before using this build"
)


@dataclass(frozen=True, eq=False)
class NoiseSamples(LazySamples):
    """Samples that are drawn anew each time they are asked for, always the same ones.

    Where `preprocessing` changes anything, float inputs get pixels: whole numbers from 0 to 255 through it. Without it
    they are normal, of mean 0 and deviation 1. Other inputs are as in `random_samples`.
    """

    inputs: tuple[Value, ...]
    preprocessing: Preprocessing
    length: int
    seed: int

    def read(self, row: int) -> Sample:
        """One sample of noise, the same in every run."""
        generator = np.random.default_rng((self.seed, row))
        return {value.name: self._draw(value, generator) for value in self.inputs}

    def _draw(self, value: Value, generator: np.random.Generator) -> Array:
        if self.preprocessing.is_identity or not value.dtype.startswith("float"):
            return _noise(value, generator)
        pixels = generator.integers(0, 255, value.shape, endpoint=True)
        return np.asarray(to_inputs(pixels[None], value, self.preprocessing)[0])


def random_samples(graph_inputs: Sequence[Value], count: int, seed: int) -> list[Sample]:
    """`count` samples of noise: normal for float inputs, the whole range for small integers, 0 and 1 for the others."""
    generator = np.random.default_rng(seed)
    return [{x.name: _noise(x, generator) for x in graph_inputs} for _ in range(count)]


def _noise(value: Value, generator: np.random.Generator) -> Array:
    if value.dtype.startswith("float"):
        return generator.standard_normal(value.shape).astype(DTYPES[value.dtype])
    if value.dtype in ("int8", "uint8", "int16"):
        limits = np.iinfo(DTYPES[value.dtype])
        return generator.integers(limits.min, limits.max, value.shape, endpoint=True).astype(DTYPES[value.dtype])
    return generator.integers(0, 1, value.shape, endpoint=True).astype(DTYPES[value.dtype])
