# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph that is written node by node, its weights streamed into one file beside it.

    with Graph(folder / "decoder.onnx", opset=20, compute=np.float32) as graph:
        x = graph.input("x", np.float32, [1, "n", 4])
        graph.node("MatMul", x, graph.weight("w", array), gives="y")
        graph.output("y", np.float32, [1, "n", 8])

Protocol buffers end at 2 GB, so nothing but small constants stands in the graph itself. A weight is
written when it is named and forgotten, so that one is in memory at a time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper

import svd_vlm_ros
from svd_vlm_ros.errors import UserError

IR_VERSION = 10
ALIGNMENT = 4096  # of a weight in its file: a page, so that it can be mapped into memory
SMALL = 1024  # bytes: less stands in the graph itself

Shape = Sequence[int | str]
"""Sizes, the free ones as names."""


class Graph:
    """One graph and its file of weights, `<name>.data`.

    Attributes:
        compute: dtype of the activations.
        store: dtype of the weights that are not quantized. If it is not `compute`, a Cast stands
            behind each, which a runtime does once when it loads.
        tensors: {"inputs" or "outputs": {name: [dtype, shape]}}, for the manifest.
        data_sha256: of the file of weights, after the end of the `with` block.
    """

    def __init__(self, path: Path, *, opset: int, compute: Any, store: Any = None) -> None:
        self.path, self.opset = path, opset
        self.compute = np.dtype(compute)
        self.store = np.dtype(compute if store is None else store)
        self.tensors: dict[str, dict[str, list[Any]]] = {"inputs": {}, "outputs": {}}
        self.data_sha256 = ""
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._scope = ""
        self._count: dict[str, int] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._cast: dict[str, str] = {}
        self._data: _Data

    @property
    def data_path(self) -> Path:
        """The file of weights."""
        return self.path.with_name(self.path.name + ".data")

    def __enter__(self) -> Graph:
        self._data = _Data(self.data_path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.data_sha256 = self._data.close()
        if kind is None:
            self._save()

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """What is made meanwhile is named `<name>/...`."""
        before, self._scope = self._scope, f"{self._scope}{name}/"
        try:
            yield
        finally:
            self._scope = before

    def input(self, name: str, dtype: Any, shape: Shape) -> str:
        """An input; a size that is a name is free."""
        self._inputs.append(_value(name, dtype, shape))
        self.tensors["inputs"][name] = [np.dtype(dtype).name, list(shape)]
        return name

    def output(self, name: str, dtype: Any, shape: Shape) -> None:
        """An output, which is the value that some node `gives` under this name."""
        self._outputs.append(_value(name, dtype, shape))
        self.tensors["outputs"][name] = [np.dtype(dtype).name, list(shape)]

    def node(self, kind: str, *inputs: str, gives: str | None = None, **attributes: Any) -> str:
        """A node with one output; returns that output's name, which is `gives` if that is said."""
        name = self._name(kind)
        made = helper.make_node(kind, inputs, [gives or name], name=name, **attributes)
        self._nodes.append(made)
        return gives or name

    def split(self, value: str, sizes: Sequence[int], axis: int) -> list[str]:
        """A value cut into parts of these sizes."""
        name = self._name("Split")
        parts = [f"{name}:{index}" for index in range(len(sizes))]
        inputs = [value, self.constant(list(sizes))]
        self._nodes.append(helper.make_node("Split", inputs, parts, name=name, axis=axis))
        return parts

    def reshape(self, value: str, shape: Sequence[int], gives: str | None = None) -> str:
        """A value in another shape; -1 is what is left, 0 as it is."""
        return self.node("Reshape", value, self.constant(list(shape)), gives=gives)

    def transpose(self, value: str, *order: int, gives: str | None = None) -> str:
        """A value with its axes in another order."""
        return self.node("Transpose", value, perm=list(order), gives=gives)

    def cast(self, value: str, dtype: Any, gives: str | None = None) -> str:
        """A value in another dtype."""
        to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.node("Cast", value, to=to, gives=gives)

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """A small constant; the same one is written once."""
        array = np.ascontiguousarray(np.asarray(value, dtype=dtype))
        key = array.dtype.str, np.shape(value), array.tobytes()
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            shape = np.shape(value)
            self._initializers.append(
                helper.make_tensor(name, kind, shape, array.tobytes(), raw=True)
            )
            self._constants[key] = name
        return self._constants[key]

    def number(self, value: float) -> str:
        """A scalar in the activations' dtype."""
        return self.constant(value, self.compute)

    def weight(self, name: str, array: np.ndarray) -> str:
        """A weight, written in the dtype `store` and given out in `compute`."""
        if name in self._cast:
            return self._cast[name]
        stored = fit(array, self.store, name)
        value = self.tensor(name, stored, helper.np_dtype_to_tensor_dtype(self.store), stored.shape)
        if self.store != self.compute:
            value = self.cast(value, self.compute)
        self._cast[name] = value
        return value

    def tensor(self, name: str, array: np.ndarray, kind: int, shape: Sequence[int]) -> str:
        """A tensor as it is, its bytes in this order."""
        array = np.ascontiguousarray(array)
        if array.nbytes < SMALL:
            made = helper.make_tensor(name, kind, shape, array.tobytes(), raw=True)
        else:
            offset = self._data.append(array)
            made = TensorProto(name=name, data_type=kind, dims=shape)
            made.data_location = TensorProto.EXTERNAL
            place = {"location": self.data_path.name, "offset": offset, "length": array.nbytes}
            for key, value in place.items():
                made.external_data.add(key=key, value=str(value))
        self._initializers.append(made)
        return name

    def _name(self, kind: str) -> str:
        key = f"{self._scope}{kind}"
        self._count[key] = self._count.get(key, -1) + 1
        return f"{key}_{self._count[key]}"

    def _save(self) -> None:
        name = self.path.stem
        made = helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._initializers)
        model = helper.make_model(
            made,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=IR_VERSION,
            producer_name="svd_vlm_ros",
            producer_version=svd_vlm_ros.__version__,
        )
        with open(self.path, "wb") as file:
            file.write(model.SerializeToString())
            file.flush()
            os.fsync(file.fileno())


class _Data:
    """The file of weights, and its checksum as it grows."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115 - closed by `close`
        self._digest, self._end = hashlib.sha256(), 0

    def append(self, array: np.ndarray) -> int:
        """Write an array behind what there is; returns where it begins."""
        self._write(bytes(-self._end % ALIGNMENT))
        begin = self._end
        self._write(array.reshape(-1).view(np.uint8).data)
        return begin

    def close(self) -> str:
        """Bring it onto the disk; returns its SHA-256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()

    def _write(self, content: bytes | memoryview) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._end += len(content)


def fit(array: np.ndarray, dtype: Any, name: str) -> np.ndarray:
    """An array in a dtype. Raises `UserError` if numbers leave its range."""
    with np.errstate(over="ignore"):
        fitted = array if array.dtype == dtype else array.astype(dtype)
    if dtype == np.float16 and array.dtype != np.float16 and not np.isfinite(fitted).all():
        raise UserError(f"The weight {name} does not fit into 16 bits: export in fp32.")
    return fitted


def _value(name: str, dtype: Any, shape: Shape) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, list(shape))
