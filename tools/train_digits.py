"""Train the example: a small depthwise-separable network with a residual add, on scikit-learn's handwritten digits.

Writes examples/digits.onnx and examples/digits.npz (calib: training images to calibrate with; x, y: test images).
Needs the extra `tinyopt[train]`. Seeded: the same versions of torch and scikit-learn give the same files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SEED = 0
EPOCHS = 60
CALIBRATION_SAMPLES = 200
OPSET, IR_VERSION = 17, 8


class SeparableBlock(nn.Module):
    """Depthwise 3x3, then pointwise 1x1, each with batch normalization and ReLU; residual where the shapes allow it."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, filters, 1, bias=False)
        self.pointwise_norm = nn.BatchNorm2d(filters)
        self.is_residual = stride == 1 and channels == filters

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.depthwise_norm(self.depthwise(x)))
        y = self.pointwise_norm(self.pointwise(y))
        return torch.relu(y + x if self.is_residual else y)


class DigitsNet(nn.Module):
    """8x8 grey images in [0, 1] to ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(16)
        self.blocks = nn.ModuleList([SeparableBlock(16, 32, 2), SeparableBlock(32, 32, 1), SeparableBlock(32, 32, 1)])
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.classifier(x.mean((2, 3)))


def main() -> None:
    """Train, report, and write both files."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    digits: Any = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)  # N1HW in [0, 1]
    split: list[Any] = train_test_split(
        images, digits.target, test_size=0.25, random_state=SEED, stratify=digits.target
    )
    train_x, test_x, train_y, test_y = split
    network = _train(train_x, train_y)
    with torch.no_grad():
        accuracy = float((network(torch.from_numpy(test_x)).argmax(1).numpy() == test_y).mean())
    print(f"top-1 on {len(test_x)} test images: {100 * accuracy:.2f} %")
    onnx.save(_to_onnx(network), EXAMPLES / "digits.onnx")
    np.savez_compressed(
        EXAMPLES / "digits.npz", calib=train_x[:CALIBRATION_SAMPLES], x=test_x, y=test_y.astype(np.int64)
    )


def _train(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> DigitsNet:
    network = DigitsNet()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))),
        batch_size=64,
        shuffle=True,
        generator=torch.Generator().manual_seed(SEED),
    )
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, EPOCHS * len(loader))
    for _ in range(EPOCHS):
        for batch, truth in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(batch), truth, label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


class _OnnxWriter:
    """Collects nodes and initializers; batch normalization stays a node of its own, for a pass to fold."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, op: str, name: str, inputs: list[str], **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def constant(self, name: str, tensor: torch.Tensor) -> str:
        self.initializers.append(numpy_helper.from_array(tensor.detach().numpy(), name))
        return name

    def convolution(self, name: str, x: str, layer: nn.Conv2d, norm: nn.BatchNorm2d) -> str:
        pad, stride = int(layer.padding[0]), int(layer.stride[0])
        weight = self.constant(f"{name}_weight", layer.weight)
        y = self.add("Conv", name, [x, weight], pads=[pad] * 4, strides=[stride] * 2, group=layer.groups)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        statistics = {"scale": norm.weight, "bias": norm.bias, "mean": norm.running_mean, "var": norm.running_var}
        names = [self.constant(f"{name}_norm_{key}", value) for key, value in statistics.items()]
        return self.add("BatchNormalization", f"{name}_norm", [y, *names], epsilon=norm.eps)


def _to_onnx(network: DigitsNet) -> onnx.ModelProto:
    writer = _OnnxWriter()
    x = writer.add("Relu", "stem_relu", [writer.convolution("stem", "image", network.stem, network.stem_norm)])
    for number, block in enumerate(network.blocks, start=1):
        assert isinstance(block, SeparableBlock)
        y = writer.convolution(f"depthwise{number}", x, block.depthwise, block.depthwise_norm)
        y = writer.add("Relu", f"depthwise{number}_relu", [y])
        y = writer.convolution(f"pointwise{number}", y, block.pointwise, block.pointwise_norm)
        if block.is_residual:
            y = writer.add("Add", f"add{number}", [y, x])
        x = writer.add("Relu", f"block{number}_relu", [y])
    x = writer.add("GlobalAveragePool", "pool", [x])
    x = writer.add("Flatten", "flatten", [x])
    weight = writer.constant("classifier_weight", network.classifier.weight)
    bias = writer.constant("classifier_bias", network.classifier.bias)
    x = writer.add("Gemm", "classifier", [x, weight, bias], transB=1)
    writer.nodes.append(helper.make_node("Softmax", [x], ["probabilities"], "softmax", axis=1))
    graph = helper.make_graph(
        writer.nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        writer.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="tinyopt examples")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    main()
