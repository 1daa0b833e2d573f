"""Weights that are not what they say, and weights in other files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from onnx import ModelProto, TensorProto, external_data_helper, helper

from tools.broken.case import MODEL, Case, Change, initializer, model_of, network, node, numbered, of_model, replaced

_PASSWORDS = "/etc/passwd"


def tensor_cases() -> Iterator[Case]:
    """About 70 cases."""
    yield from numbered("weight", _CHANGES)
    for element in (0, 8, 14, 15, 16, 17, 22, 23, 99, -1, 2**31 - 1):
        yield from numbered(
            "weight", {f"type-{element}": lambda m, e=element: setattr(initializer(m, "w"), "data_type", e)}
        )
    for dims in ((-1, 3, 3, 3), (4, 3, 3), (4, 3, 3, 4), (2**62, 2**62), (2**31, 1), (0,), (1,) * 200, (2**63 - 1,)):
        text = "x".join(map(str, dims[:4]))
        yield from numbered("weight", {f"dims-{text}": lambda m, d=dims: _set_dims(m, d)})
    yield from _numbers()
    yield from _external()


def _set_dims(model: ModelProto, dims: tuple[int, ...]) -> None:
    weights = initializer(model, "w")
    del weights.dims[:]
    weights.dims.extend(dims)


def _both(model: ModelProto) -> None:
    initializer(model, "w").float_data.extend([1.0] * 108)


def _typed(values: int) -> Change:
    def change(model: ModelProto) -> None:
        weights = initializer(model, "w")
        weights.ClearField("raw_data")
        weights.float_data.extend([0.5] * values)

    return change


def _wrong_field(model: ModelProto) -> None:
    weights = initializer(model, "w")
    weights.ClearField("raw_data")
    weights.int64_data.extend([1] * 108)


def _strings(model: ModelProto) -> None:
    weights = initializer(model, "b")
    weights.ClearField("raw_data")
    weights.data_type = TensorProto.STRING
    weights.string_data.extend([b"\xff\xfe", b"x", b"", b"0"])


def _set_raw(name: str, length: int) -> Change:
    def change(model: ModelProto) -> None:
        weights = initializer(model, name)
        weights.raw_data = (weights.raw_data * 2)[:length]

    return change


_CHANGES: dict[str, Change] = {
    "no-data": lambda m: initializer(m, "w").ClearField("raw_data"),
    "one-byte-short": _set_raw("w", 431),
    "one-byte-long": _set_raw("w", 433),
    "twice-as-long": _set_raw("w", 864),
    "empty-bias": _set_raw("b", 0),
    "raw-and-typed": _both,
    "typed-too-few": _typed(107),
    "typed-too-many": _typed(109),
    "typed-in-another-field": _wrong_field,
    "strings": _strings,
    "segments": lambda m: setattr(initializer(m, "w").segment, "begin", 3),
    "without-name": lambda m: setattr(initializer(m, "w"), "name", ""),
}


def _numbers() -> Iterator[Case]:
    for bad in (np.nan, np.inf, -np.inf):
        for name, shape in (("w", (4, 3, 3, 3)), ("b", (4,)), ("v", (64, 5)), ("c", (5,))):
            array = np.zeros(shape, np.float32)
            array.reshape(-1)[-1] = bad
            model = network()
            replaced(model, name, array)
            yield of_model(f"weight-{name}-{bad}", model)
    nan = helper.make_tensor("c", TensorProto.FLOAT, [4], np.full(4, np.nan, np.float32))
    yield of_model("constant-nan", model_of([node("Constant", "", "c", value=nan), node("Add", "x c")], {"x": [1, 4]}))
    half = helper.make_tensor("c", TensorProto.FLOAT16, [2], np.full(2, np.nan, np.float16))
    yield of_model("constant-nan-half", _cast(half))
    brain = helper.make_tensor("c", TensorProto.BFLOAT16, [2], [1.0, 2.0])
    yield of_model("constant-bfloat16", _cast(brain))


def _cast(tensor: TensorProto) -> ModelProto:
    nodes = [node("Constant", "", "c", value=tensor), node("Cast", "c", "d", to=1), node("Add", "x d")]
    return model_of(nodes, {"x": [1, 2]})


def _outside(
    name: str,
    location: str,
    files: Mapping[str, bytes] | None = None,
    links: Mapping[str, str] | None = None,
    hard_links: Mapping[str, str] | None = None,
    entries: Mapping[str, str] | None = None,
) -> Case:
    """The small network whose weights `w` lie at `location`."""
    model = network()
    weights = initializer(model, "w")
    external_data_helper.set_external_data(weights, location="w.bin")
    weights.ClearField("raw_data")
    del weights.external_data[:]
    for key, value in {"location": location, **(entries or {})}.items():
        weights.external_data.add(key=key, value=value)
    content = {MODEL: model.SerializeToString(), **(files or {})}
    return Case(f"external-{name}", content, links=links or {}, hard_links=hard_links or {})


def _external() -> Iterator[Case]:
    good = np.zeros((4, 3, 3, 3), np.float32).tobytes()
    deep = "/".join([".."] * 40)
    for number, location in enumerate(
        [
            *("", ".", "..", "/", "/etc/passwd", "../../../../../../etc/passwd", f"{deep}/etc/passwd", "//etc/passwd"),
            *("./../w.bin", "a/../../w.bin", "w.bin/../../x", "C:\\w.bin", "..\\w.bin", "\\\\server\\share\\w.bin"),
            *("file:///etc/passwd", "http://localhost/w.bin", "w.bin\0.txt", "\0", "w\n.bin", "~/w.bin", "$HOME/w.bin"),
            *("/dev/zero", "/dev/stdin", "/proc/self/mem", "/proc/self/environ", "w.bin" * 1000, "missing.bin", MODEL),
        ]
    ):
        yield _outside(f"location-{number:02d}", location, {"w.bin": good})
    yield _outside("link", "w.bin", links={"w.bin": _PASSWORDS})
    yield _outside("link-inside", "w.bin", {"real.bin": good}, links={"w.bin": "real.bin"})
    yield _outside("link-to-a-device", "w.bin", links={"w.bin": "/dev/zero"})
    yield _outside("link-to-nothing", "w.bin", links={"w.bin": "nowhere"})
    yield _outside("link-circle", "w.bin", links={"w.bin": "w.bin"})
    yield _outside("folder-is-a-link", "etc/passwd", links={"etc": "/etc"})
    yield _outside("hard-link", "w.bin", {"real.bin": good}, hard_links={"w.bin": "real.bin"})
    yield _outside("a-folder", "w", {"w/inside": good})
    yield _outside("empty", "w.bin", {"w.bin": b""})
    yield _outside("short", "w.bin", {"w.bin": good[:-1]})
    for key, value in (
        *(("offset", "1"), ("offset", "-1"), ("offset", "x"), ("offset", "9" * 30), ("offset", "1e3"), ("offset", "٣")),
        *(("length", "431"), ("length", "433"), ("length", "-1"), ("length", "9" * 5000), ("length", "0x1B0")),
        *(("basepath", "/etc"), ("checksums", "00")),
    ):
        yield _outside(f"{key}-{value[:6]}", "w.bin", {"w.bin": good}, entries={key: value})
    yield _in_a_node(good)
    yield _large_from_one_byte()
    twice = _outside("location-twice", "w.bin", {"w.bin": good})
    model = ModelProto.FromString(twice.files[MODEL])
    initializer(model, "w").external_data.add(key="location", value=_PASSWORDS)
    yield replace(twice, files={MODEL: model.SerializeToString(), "w.bin": good})


def _in_a_node(good: bytes) -> Case:
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    model = model_of([node("Constant", "", "c", value=tensor), node("Add", "x c")], {"x": [1, 4]})
    return Case("external-in-a-node", {MODEL: model.SerializeToString(), "w.bin": good})


def _large_from_one_byte() -> Case:
    """Two hundred tensors of 64 MiB that lie at one place of one sparse file would be 12 GiB."""
    model = network()
    for number in range(200):
        tensor = model.graph.initializer.add(name=f"big{number}", data_type=TensorProto.FLOAT, dims=[2**24])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.bin")
    return Case("external-one-place-200-times", {MODEL: model.SerializeToString(), "w.bin": b"\1"})
