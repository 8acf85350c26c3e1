"""Build TensorRT and TensorRT-RTX engines from ONNX models. Their Python interfaces are nearly the same."""

from __future__ import annotations

import hashlib
from importlib import resources
from types import ModuleType
from typing import Any

import msgspec

from alexnet_infer.engines import cache as engine_cache
from alexnet_infer.engines.files import Built, EngineDescription, EngineOptions, EnginePlatform
from alexnet_infer.engines.library import Gpu, Library, load_library, this_gpu
from alexnet_infer.errors import BackendError, ModelFileError, UsageError, one_line, printable, shown
from alexnet_infer.export.engine_progress import OnProgress, monitor, stoppable
from alexnet_infer.export.lrn_plugin.kernel import MAX_SIZE
from alexnet_infer.graph.file import MAX_BYTES
from alexnet_infer.graph.info import ExportInfo
from alexnet_infer.graph.net import PLUGIN_DOMAIN
from alexnet_infer.manifest import Manifest

RECIPE = 1
"""Increase this when this file builds different engines from the same model, so that cached engines are not reused."""


def build_engine(
    model: bytes,
    manifest: Manifest,
    info: ExportInfo,
    options: EngineOptions,
    *,
    on_progress: OnProgress = lambda phase, done, total: None,
) -> Built:
    """Return the engine for an ONNX model from this user's cache, or build it.

    `manifest` and `info` describe the model. Networks are strongly typed: each value has the precision that it has in
    ONNX, and float32 is never rounded to TF32. Ctrl-C stops a build. Raises BackendError if TensorRT is missing, needs
    a GPU and finds none, or can't build the model, UsageError if the flavor doesn't support the model, and
    ModelFileError if `model` is not an ONNX model.
    """
    library = load_library(options.flavor)
    plugins = _check_model(model, options)
    gpu = this_gpu() if options.flavor == "tensorrt" else None
    platform = EnginePlatform(
        flavor=options.flavor,
        version=library.version,
        compute_capabilities=(gpu.capability,) if gpu else options.targets,
        gpu=gpu and gpu.name,
        driver=gpu and gpu.driver,
        plugin=plugins > 0,
    )
    model_sha256 = hashlib.sha256(model).hexdigest()

    def build() -> Built:
        plan = _build(library, model, plugins, info, options, gpu, on_progress)
        sha256 = hashlib.sha256(plan).hexdigest()
        return Built(
            plan=plan,
            description=EngineDescription(
                manifest=manifest, info=info, platform=platform, sha256=sha256, model_sha256=model_sha256
            ),
        )

    facts = {
        "recipe": RECIPE,
        "model": model_sha256,
        "manifest": manifest.to_json(),
        "info": info.to_json(),
        "platform": msgspec.to_builtins(platform),
        "options": msgspec.to_builtins(options),
        "plugin": _plugin_sha256() if plugins else None,
    }
    return engine_cache.cached(
        engine_cache.key(facts), build, lambda: on_progress("Waiting for the process that builds this engine", 0, 1)
    )


def _check_model(model: bytes, options: EngineOptions) -> int:
    """Return the number of nodes for alexnet-infer's plugin.

    Raises UsageError if the model has any other node outside of ONNX's domain. TensorRT's parser looks only at a node's
    type, and would run an LRN node of any domain as ONNX's. Also raises UsageError if the model is too large or the
    plugin doesn't support its LRN, and ModelFileError if `model` is not an ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if len(model) > MAX_BYTES:
        raise UsageError(
            f"the ONNX model has {len(model)} bytes: expected at most 2 GB; export fewer nets, or use --precision fp16"
        )
    try:
        proto = onnx.load_model_from_string(model)
    except DecodeError as error:
        raise ModelFileError(f"damaged, or not an ONNX model ({one_line(error)})") from None
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in proto.graph.initializer):
        raise UsageError(
            "the ONNX model has its weights in another file: expected them in the model, at most 2 GB; "
            "export fewer nets, or use --precision fp16"
        )
    foreign = [node for node in proto.graph.node if node.domain not in ("", "ai.onnx")]
    for node in foreign:
        is_plugin = node.domain == PLUGIN_DOMAIN
        if options.flavor == "rtx" or not is_plugin:
            reason = "expected ONNX's own operators"
            if is_plugin:
                reason = "TensorRT-RTX does not support plugins; export with --lrn op"
            raise UsageError(f"{shown(node.name)} is a node of the domain {shown(node.domain)}: {reason}")
        size = next((attribute.i for attribute in node.attribute if attribute.name == "size"), 0)
        if size > MAX_SIZE:  # TensorRT would ask the plugin for a kernel and print its error as a traceback
            raise UsageError(
                f"{shown(node.name)}: LRN over {size} channels: the plugin supports at most {MAX_SIZE}; "
                "export with --lrn op"
            )
    return len(foreign)


def _without_functions(model: bytes) -> bytes:
    """Return the model without its definition of GroupedLRN, so that the parser can only use the plugin."""
    import onnx

    proto = onnx.load_model_from_string(model)
    kept = [function for function in proto.functions if function.domain != PLUGIN_DOMAIN]
    del proto.functions[:]
    proto.functions.extend(kept)
    return proto.SerializeToString()


def _plugin_sha256() -> str:
    digest = hashlib.sha256()
    for file in sorted(resources.files("alexnet_infer.export.lrn_plugin").iterdir(), key=lambda file: file.name):
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _build(
    library: Library,
    model: bytes,
    plugins: int,
    info: ExportInfo,
    options: EngineOptions,
    gpu: Gpu | None,
    on_progress: OnProgress,
) -> bytes:
    trt = library.module
    if plugins:
        from alexnet_infer.export.lrn_plugin.plugin import register

        register()
        model = _without_functions(model)
    builder = library.start("Builder")
    library.errors.clear()
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(library, network, model, plugins)
    config = _configure(library, builder, network, info, options)
    timings = _attach_timings(library, config, gpu) if gpu else None
    library.errors.clear()
    with stoppable() as stopped:
        config.progress_monitor = watch = monitor(trt, on_progress, stopped)
        plan = builder.build_serialized_network(network, config)
    if watch.error is not None:
        raise watch.error
    if plan is None:
        complaint = library.complaint("no reason given")
        unsupported = "7.5" in options.targets and info.precision == "fp32"
        fix = "; 7.5 does not support float32: leave it out, or export with --precision fp16" if unsupported else ""
        raise BackendError(f"{library.title} {library.version} can't build an engine of this net: {complaint}{fix}")
    if timings is not None:
        engine_cache.write_timings(_timings_name(library, gpu), bytes(timings.serialize()))
    return bytes(plan)


def _parse(library: Library, network: Any, model: bytes, plugins: int) -> None:
    trt = library.module
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse(model):
        complaint = library.complaint("no reason given")
        if parser.num_errors:
            error = parser.get_error(0)
            node = f" at {shown(error.node_name())}, {shown(error.node_operator())}" if error.node_operator() else ""
            complaint = f"{printable(' '.join(error.desc().split())[:300])}{node}"
        raise BackendError(f"{library.title} {library.version} can't parse this net: {complaint}")
    parsed = sum(network.get_layer(i).type == trt.LayerType.PLUGIN_V3 for i in range(network.num_layers))
    if parsed != plugins:
        raise BackendError(
            f"{library.title} {library.version} uses the LRN plugin for {parsed} of {plugins} nodes: expected all; "
            "export with --lrn op"
        )


def _configure(library: Library, builder: Any, network: Any, info: ExportInfo, options: EngineOptions) -> Any:
    trt = library.module
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # rounds float32 to 10 mantissa bits; on by default
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for TensorRT's inspector
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.targets:
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # otherwise RTX may allocate while it runs
        config.num_compute_capabilities = len(options.targets)
        for index, capability in enumerate(options.targets):
            config.set_compute_capability(_capability(trt, capability), index)
    if not info.batch.fixed:
        profile = builder.create_optimization_profile()
        source = network.get_input(0)
        rest = tuple(source.shape)[1:]
        batch = info.batch
        profile.set_shape(source.name, (batch.min, *rest), (batch.opt, *rest), (batch.max, *rest))
        config.add_optimization_profile(profile)
    return config


def _capability(trt: ModuleType, capability: str) -> Any:
    names = {name: value for name, value in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    known = {f"{name[2:-1]}.{name[-1]}": value for name, value in names.items()}
    if capability not in known:
        raise UsageError(f"--compute-capability {capability}: this TensorRT-RTX builds for {', '.join(known)}")
    return known[capability]


def _timings_name(library: Library, gpu: Gpu) -> str:
    return engine_cache.key({"version": library.version, "gpu": gpu.name, "driver": gpu.driver})


def _attach_timings(library: Library, config: Any, gpu: Gpu) -> Any:
    """Attach TensorRT's timing cache and return it. It must live until the engine is built. RTX times no kernels."""
    stored = engine_cache.read_timings(_timings_name(library, gpu))
    for content in (stored, b""):
        timings = config.create_timing_cache(content)
        if timings is not None and config.set_timing_cache(timings, ignore_mismatch=False):
            return timings
    return None
