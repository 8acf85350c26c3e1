"""The plugin `alexnet_infer::GroupedLRN`, written with `tensorrt.plugin`: description, tuning, ahead-of-time kernel.

This module has no `from __future__ import annotations`: TensorRT reads the annotations below as types, not as text.
"""

from functools import cache

from alexnet_infer.architecture import LRN
from alexnet_infer.errors import BackendError, one_line
from alexnet_infer.export.lrn_plugin.kernel import BLOCK, compile_ptx, import_nvrtc

NAMESPACE, NAME = "alexnet_infer", "GroupedLRN"
PLUGIN = f"{NAMESPACE}::{NAME}"

TACTICS = (1, 2, 4, 8)
"""Numbers of parts that each column's channels may be split into. TensorRT times all of them on the GPU, at the batch
that it builds for, and keeps the fastest. With 1, every value is read once. With 8, a single image fills a GPU."""

FALLBACK = (8, 0)


@cache
def register() -> None:
    """Register the plugin with TensorRT in this process. A second call does nothing.

    Call it before parsing a model: the ONNX parser recognises the node only through the registered plugin. Raises
    BackendError if TensorRT or NVRTC is missing.
    """
    try:
        import tensorrt as trt
        import tensorrt.plugin as trtp
    except ImportError as error:
        raise BackendError(
            f'the LRN plugin needs TensorRT ({one_line(error)}): pip install "alexnet-infer[trt]"'
        ) from None
    import_nvrtc()

    @trtp.register(PLUGIN)
    def describe(x: trtp.TensorDesc, size: int, alpha: float, beta: float, k: float, groups: int) -> trtp.TensorDesc:
        return x.like()

    @trtp.autotune(PLUGIN)
    def tune(x: trtp.TensorDesc, outputs: tuple[trtp.TensorDesc]) -> list[trtp.AutoTuneCombination]:
        return [trtp.AutoTuneCombination("FP32|FP16, FP32|FP16", "LINEAR", TACTICS)]

    # TensorRT passes all attributes by position, in the order of `describe`.
    @trtp.aot_impl(PLUGIN)
    def implement(
        x: trtp.TensorDesc,
        size: int,
        alpha: float,
        beta: float,
        k: float,
        groups: int,
        outputs: tuple[trtp.TensorDesc],
        tactic: int,
    ) -> tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        _, channels, height, width = x.shape  # -1 for a dynamic size, which Plan refuses
        spec = LRN(name=NAME, size=size, alpha=alpha, beta=beta, k=k, groups=groups)
        dtype = "fp16" if x.dtype == trt.float16 else "fp32"
        kernel = compile_ptx(spec, channels, height, width, dtype, device_capability(), parts=max(tactic, 1))
        images = x.shape_expr[0]
        _, rows, _ = kernel.plan.grid(1)
        launch = trtp.KernelLaunchParams(
            grid_x=trtp.cdiv(images * kernel.plan.packs, BLOCK), grid_y=rows, block_x=BLOCK
        )
        scalars = trtp.SymIntExprs(1)
        scalars[0] = trtp.SymInt32(images)
        return kernel.name, kernel.ptx, launch, scalars


def device_capability() -> tuple[int, int]:
    """Return the GPU's compute capability, or 8.0 if the driver gives none: every later GPU accepts PTX for 8.0."""
    try:
        from cuda.bindings import driver

        driver.cuInit(0)
        status, device = driver.cuCtxGetDevice()
        if status != driver.CUresult.CUDA_SUCCESS:
            _, device = driver.cuDeviceGet(0)
        attribute = driver.CUdevice_attribute
        status, major = driver.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
        _, minor = driver.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
    except (ImportError, RuntimeError):
        return FALLBACK
    return (major, minor) if status == driver.CUresult.CUDA_SUCCESS else FALLBACK
