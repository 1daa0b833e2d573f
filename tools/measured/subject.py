"""A model with the samples that it is calibrated and tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyopt.disk_cache import default_cache_dir
from tinyopt.ir import Graph
from tinyopt.onnx_import import import_model
from tinyopt.options import CompileOptions
from tinyopt.samples import Sample, load_labelled, load_samples, random_samples
from tinyopt.samples.numpy_files import array_names
from tools.measured.scores import Yardstick, answers

PIXEL_SCALES = {"vww01": 1 / 255}  # pixels / 255; every other model takes its samples as they are
_NOISE_SAMPLES, _NOISE_SEED = 16, 1  # to test a model without data; calibration noise has seed 0


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with its samples. labels: None where there are none."""

    name: str
    file: Path
    graph: Graph  # as it was imported
    options: CompileOptions
    calibration: Sequence[Sample]
    samples: Sequence[Sample]
    labels: NDArray[np.int64] | None

    @cached_property
    def yardstick(self) -> Yardstick:
        """The float model, as it came."""
        return Yardstick(answers(self.graph, self.samples), self.labels)


def load_subject(file: Path, data: Path, calibration: str | None, target: str) -> Subject:
    """`file` with `calib`, `x` and, if it is there, `y` of the .npz in `data` named as the model up to an underscore.

    calibration: a spec in the place of `calib`, such as `random`. Without data, a model is tested on noise, and has no
    labels. Raises TinyoptError where the model or its data is unusable.
    """
    graph = import_model(file, {}).graph
    arrays = data / f"{file.stem.partition('_')[0]}.npz"
    scale = PIXEL_SCALES.get(arrays.stem, 1.0)
    spec = calibration or f"{arrays}:calib"
    options = CompileOptions(target, calibration=spec, calibration_scale=scale, cache_dir=default_cache_dir())
    calibrating = load_samples(spec, graph.inputs, 0.0, scale)
    if not arrays.is_file():
        noise = random_samples(graph.inputs, _NOISE_SAMPLES, _NOISE_SEED)
        return Subject(file.stem, file, graph, options, calibrating, noise, None)
    if "y" in array_names(arrays):
        samples, labels = load_labelled(f"{arrays}:x,y", graph.inputs, 0.0, scale)
        return Subject(file.stem, file, graph, options, calibrating, samples, labels)
    samples = load_samples(f"{arrays}:x", graph.inputs, 0.0, scale)
    return Subject(file.stem, file, graph, options, calibrating, samples, None)
