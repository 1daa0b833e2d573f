"""The example network made hostile to quantization: one channel of a layer scaled up, its inverse in the next layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from tests.digits import MODEL

LAYER, CHANNEL = "depthwise1", 5


def write_hostile(file: Path, factor: float = 100.0) -> None:
    """Channel 5 of `depthwise1` gives `factor` times its values; `pointwise1` reads it with weights so much smaller.

    In float nothing changes: a Relu lies between them.
    """
    model = onnx.load(MODEL)
    constants = {item.name: item for item in model.graph.initializer}
    for name, place, by in (
        (f"{LAYER}_norm_scale", np.s_[CHANNEL], factor),
        (f"{LAYER}_norm_bias", np.s_[CHANNEL], factor),
        ("pointwise1_weight", np.s_[:, CHANNEL], 1 / factor),
    ):
        array = onnx.numpy_helper.to_array(constants[name]).copy()
        array[place] *= np.float32(by)
        constants[name].CopyFrom(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, file)
