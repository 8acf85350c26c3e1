"""Run by a test: pass the plugin through TensorRT's own Python code, in the order in which TensorRT calls it.

    python tensorrt_check.py LIBRARY...

`tensorrt.plugin` (registration, validators, the template of an ahead-of-time plugin) and the compiled classes below it
are real. TensorRT's library is not: each LIBRARY is an empty replacement, and none of its functions is called. This
program does the library's work: the registry is a dictionary, symbolic sizes are numbers (`Number`, `Builder`), and
fields have the types that the ONNX parser gives them. No engine is built.
"""

# ruff: noqa: E402 - the libraries must be loaded before the modules that are linked with them

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import numpy as np

for library in sys.argv[1:]:
    ctypes.CDLL(library, ctypes.RTLD_GLOBAL)

import tensorrt_bindings as trt

sys.modules["tensorrt"] = trt

import tensorrt.plugin as trtp
from tensorrt.plugin import _lib, _tensor

from alexnet_infer.architecture import LRN
from alexnet_infer.export.lrn_plugin.kernel import BLOCK, compile_ptx
from alexnet_infer.export.lrn_plugin.plugin import NAME, NAMESPACE, PLUGIN, TACTICS, device_capability, register

ATTRIBUTES = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0, "groups": 2}


class Registry(dict):
    """Replaces TensorRT's plugin registry."""

    def register_creator(self, creator: trt.IPluginCreatorV3Quick, namespace: str) -> None:
        self[creator.name, creator.plugin_version, namespace] = creator

    def get_creator(self, name: str, version: str, namespace: str) -> trt.IPluginCreatorV3Quick:
        return self[name, version, namespace]


class Number(trt.IDimensionExpr):
    """A known size. TensorRT's class has no constructor, so `of` creates it without one."""

    value: int

    @classmethod
    def of(cls, value: int) -> Number:
        number = cls.__new__(cls)
        number.value = value
        return number


class Builder:
    """Replaces trt.IExprBuilder. It evaluates each expression immediately."""

    def constant(self, value: int) -> Number:
        return Number.of(value)

    def operation(self, operation: trt.DimensionOperation, a: Number, b: Number) -> Number:
        o = trt.DimensionOperation
        work = {o.SUM: lambda x, y: x + y, o.PROD: lambda x, y: x * y, o.CEIL_DIV: lambda x, y: -(-x // y)}
        return Number.of(work[operation](a.value, b.value))


class Scalars(dict):
    """Replaces trt.ISymExprs."""


def parsed_fields() -> trt.PluginFieldCollection:
    """An ONNX node's attributes as the parser passes them on: FLOAT as float32 and INT as int32, one value each."""
    types = {float: (np.float32, trt.PluginFieldType.FLOAT32), int: (np.int32, trt.PluginFieldType.INT32)}
    fields = []
    for name, value in ATTRIBUTES.items():
        dtype, kind = types[type(value)]
        fields.append(trt.PluginField(name, np.array([value], dtype), kind))
    return trt.PluginFieldCollection(fields)


def tensor(dtype: trt.DataType, shape: tuple[int, ...]) -> trt.DynamicPluginTensorDesc:
    """A tensor with a dynamic batch of up to 64, in linear layout."""
    described = trt.DynamicPluginTensorDesc()
    described.desc.dims = trt.Dims((-1, *shape))
    described.desc.type = dtype
    described.desc.format = trt.TensorFormat.LINEAR
    described.min, described.opt, described.max = (trt.Dims((n, *shape)) for n in (1, 8, 64))
    return described


def check_registration(registry: Registry) -> None:
    register()
    register()
    assert list(registry) == [(NAME, "1", NAMESPACE)]
    assert PLUGIN == "alexnet_infer::GroupedLRN"
    definition = _lib.QDP_REGISTRY[PLUGIN]
    assert definition.input_attrs == {"size": int, "alpha": float, "beta": float, "k": float, "groups": int}
    assert list(definition.input_attrs) == list(ATTRIBUTES)
    assert definition.aot_impl_attr_names == list(ATTRIBUTES)
    assert definition.autotune_attr_names == []
    assert definition.num_outputs == 1
    assert definition.impl_func is None, "nothing may need Python when the engine runs"


def check_layer(registry: Registry, dtype: trt.DataType, shape: tuple[int, int, int]) -> int:
    """Check a layer from the parser to its kernels. Returns the number of kernels."""
    creator = registry[NAME, "1", NAMESPACE]
    plugin = creator.create_plugin(
        NAME, NAMESPACE, parsed_fields(), trt.TensorRTPhase.BUILD, trt.QuickPluginCreationRequest.UNKNOWN
    )
    assert isinstance(plugin, trt.IPluginV3QuickAOTBuild)
    float32 = {name: type(value)(np.float32(value)) for name, value in ATTRIBUTES.items()}
    assert plugin.attrs == float32

    assert plugin.get_output_data_types([dtype], [4]) == [dtype]
    assert plugin.get_aliased_input(0) == -1, "the kernel can't overwrite its input"
    plugin.get_output_shapes([[Number.of(n) for n in (8, *shape)]], [], Builder())
    assert [size._expr.value for size in plugin.output_descs[0].shape_expr] == [8, *shape]

    ends = [tensor(dtype, shape), tensor(dtype, shape)]
    combinations = plugin.get_supported_format_combinations(ends, 1)
    linear = trt.TensorFormat.LINEAR
    assert [(c.type, c.format) for c in combinations] == [(t, linear) for t in 2 * [trt.float32] + 2 * [trt.float16]]
    plugin.configure_plugin(ends[:1], ends[1:])
    assert sorted(plugin.get_valid_tactics()) == list(TACTICS)

    for tactic in TACTICS:
        plugin.set_tactic(tactic)
        for images in (1, 655360):
            check_launch(plugin, ends, dtype, shape, tactic, images)
    return len(plugin.kernel_map)


def check_launch(plugin, ends, dtype: trt.DataType, shape: tuple[int, int, int], tactic: int, images: int) -> None:
    plugin.get_output_shapes([[Number.of(n) for n in (images, *shape)]], [], Builder())
    implement, returned = plugin.aot_impl_function, []

    def recorded(*arguments: object) -> tuple:
        returned.append(implement(*arguments))
        return returned[-1]

    launch, scalars = SimpleNamespace(), Scalars()
    plugin.aot_impl_function = recorded
    plugin.get_launch_params([], ends, 1, launch, scalars, Builder())
    plugin.aot_impl_function = implement

    dtype_name = {trt.float32: "fp32", trt.float16: "fp16"}[dtype]
    spec = LRN(name="any", **plugin.attrs)
    expected = compile_ptx(spec, *shape, dtype_name, device_capability(), tactic)
    assert plugin.get_kernel([ends[0].desc], [ends[1].desc]) == (expected.name, expected.ptx)

    ((_, _, sizes, extra),) = returned
    grid = tuple(getattr(sizes, f"grid_{axis}")._expr.value for axis in "xyz")
    assert grid == expected.plan.grid(images)
    assert [getattr(sizes, f"block_{axis}")._expr.value for axis in "xyz"] == [BLOCK, 1, 1]
    assert sizes.shared_mem._expr.value == 0
    assert [scalar._expr.value for scalar in extra] == [images], "the kernel's one scalar is the number of images"
    assert all(isinstance(value, trt.ISymExpr) for value in (*vars(launch).values(), *scalars.values()))
    assert (scalars.nbSymExprs, len(scalars), len(vars(launch))) == (1, 1, 7)
    assert isinstance(extra[0], trtp.SymInt32), "as lrn.cu declares it"


def check_the_validators() -> None:
    """That they accept the plugin is meaningful only if they refuse invalid ones."""
    wrong = {
        "an annotation that is text": "def f(x: 'trtp.TensorDesc') -> trtp.TensorDesc: ...",
        "a default": "def f(x: trtp.TensorDesc, size: int = 5) -> trtp.TensorDesc: ...",
        "an attribute of an unknown type": "def f(x: trtp.TensorDesc, size: list) -> trtp.TensorDesc: ...",
        "no return type": "def f(x: trtp.TensorDesc): ...",
    }
    for number, (mistake, source) in enumerate(wrong.items()):
        names = {"trtp": trtp}
        exec(source, names)
        try:
            trtp.register(f"wrong::a{number}")(names["f"])
        except ValueError:
            continue
        raise AssertionError(f"{mistake} was accepted")


def main() -> None:
    registry = Registry()
    trt.get_plugin_registry = lambda: registry
    assert _lib.trt is trt
    assert _tensor.SymIntExpr._exprBuilder is None
    check_registration(registry)
    layers = [(dtype, shape) for dtype in (trt.float32, trt.float16) for shape in ((96, 55, 55), (256, 27, 27))]
    kernels = sum(check_layer(registry, *layer) for layer in layers)
    check_the_validators()
    print(f"TensorRT {trt.__version__}: {kernels} kernels of {len(layers)} layers accepted")


if __name__ == "__main__":
    main()
