"""A small builder of ONNX graphs: nodes are added one by one, each call returns the name of its output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
ML_OPSET = 3
IR_VERSION = 9
"""Old enough for the runtimes in use (ONNX Runtime 1.15 and later), new enough for every operator used here."""

TOKENIZER_DOMAIN = "com.microsoft"
"""ONNX Runtime's own operators; only text columns need one."""


class NoOnnxFormError(ValueError):
    """A fitted object that the export does not know how to write as ONNX."""


class Graph:
    """An ONNX graph under construction. Names are unique; values of weights are stored once a call."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def input(self, name: str, kind: int) -> str:
        """A graph input of shape (n, 1); `kind` is TensorProto.FLOAT or TensorProto.STRING."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, [None, 1]))
        return name

    def weight(self, values: NDArray[Any]) -> str:
        """A constant tensor."""
        name = self._name("weight")
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node with one output."""
        output = self._name(operator.lower())
        self._nodes.append(helper.make_node(operator, list(inputs), [output], name=output, domain=domain, **attributes))
        return output

    def append(self, node: onnx.NodeProto) -> str:
        """A node made elsewhere; its first output."""
        self._nodes.append(node)
        return str(node.output[0])

    def fresh(self) -> str:
        """A name that nothing else has."""
        return self._name("value")

    def inline(self, model: onnx.ModelProto, feature_name: str, output: str) -> str:
        """Everything of a converted model, fed with `feature_name`; returns the new name of its `output`."""
        prefix = self._name("inner") + "_"
        rename = {model.graph.input[0].name: feature_name}

        def renamed(name: str) -> str:
            return rename.get(name, prefix + name) if name else name

        for node in model.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = prefix + node.name
            copy.input[:] = [renamed(name) for name in node.input]
            copy.output[:] = [renamed(name) for name in node.output]
            self._nodes.append(copy)
        for weight in model.graph.initializer:
            copy_weight = onnx.TensorProto()
            copy_weight.CopyFrom(weight)
            copy_weight.name = renamed(weight.name)
            self._weights.append(copy_weight)
        return renamed(output)

    def cast(self, value: str, kind: int) -> str:
        return self.add("Cast", value, to=kind)

    def softmax(self, logits: str, scale: float) -> str:
        """softmax(scale * logits) over the last axis."""
        if scale != 1.0:
            logits = self.add("Mul", logits, self.weight(np.array(scale, dtype=np.float32)))
        return self.add("Softmax", logits, axis=-1)

    def model(self, output: str, name: str, shape: Sequence[int | None], facts: dict[str, str]) -> onnx.ModelProto:
        """The finished model, with `output` (float32) under `name`; only what leads to it is kept."""
        self._nodes.append(helper.make_node("Identity", [output], [name], name=f"to_{name}"))
        nodes, used = self._needed(name)
        graph = helper.make_graph(
            nodes,
            "student",
            # An input that nothing reads would be refused by some runtimes.
            [value for value in self._inputs if value.name in used],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))],
            [weight for weight in self._weights if weight.name in used],
        )
        domains = {node.domain for node in nodes}
        versions = {"": OPSET, "ai.onnx.ml": ML_OPSET, TOKENIZER_DOMAIN: 1}
        opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items() if domain in domains | {""}]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="stillroom", ir_version=IR_VERSION)
        helper.set_model_props(model, facts)
        onnx.checker.check_model(model)
        return model

    def _needed(self, output: str) -> tuple[list[onnx.NodeProto], set[str]]:
        wanted, kept = {output}, []
        for node in reversed(self._nodes):
            if wanted & set(node.output):
                kept.append(node)
                wanted |= set(node.input)
        return kept[::-1], wanted

    def _name(self, stem: str) -> str:
        self._count += 1
        # A column may have any name; a dot and a number keep ours apart from it.
        return f"_{stem}.{self._count}"
