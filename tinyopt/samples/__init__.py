"""Calibration and test samples: files of many kinds become one array for each graph input, all checked first."""

from tinyopt.samples.calibration import Calibration, load_calibration_set
from tinyopt.samples.loading import load_labelled, load_samples
from tinyopt.samples.noise import NOISE_SAMPLES, NOISE_WARNING, NoiseSamples, random_samples
from tinyopt.samples.numpy_files import save_arrays
from tinyopt.samples.preprocessing import Numbers, Preprocessing, to_input
from tinyopt.samples.specs import RANDOM, files_of, paths_of, source_of, with_path
from tinyopt.samples.stored import Sample, StoredSamples, fingerprint

__all__ = [
    "NOISE_SAMPLES",
    "NOISE_WARNING",
    "RANDOM",
    "Calibration",
    "NoiseSamples",
    "Numbers",
    "Preprocessing",
    "Sample",
    "StoredSamples",
    "files_of",
    "fingerprint",
    "load_calibration_set",
    "load_labelled",
    "load_samples",
    "paths_of",
    "random_samples",
    "save_arrays",
    "source_of",
    "to_input",
    "with_path",
]
