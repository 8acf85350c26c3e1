"""The plugin `alexnet_infer::GroupedLRN`, as `tensorrt.plugin` wants it: described, tuned, implemented ahead of time.

No `from __future__ import annotations` here: TensorRT reads the annotations below as types, not as text.
"""

from functools import cache

from alexnet_infer.architecture import LRN
from alexnet_infer.errors import BackendError, one_line
from alexnet_infer.export.lrn_plugin.kernel import BLOCK, compile_ptx, import_nvrtc

NAMESPACE, NAME = "alexnet_infer", "GroupedLRN"
PLUGIN = f"{NAMESPACE}::{NAME}"

TACTICS = (1, 2, 4, 8)
"""In how many parts each column's channels may be cut. TensorRT times all of them on the GPU at the batch it builds for
and keeps the fastest: 1 reads every value once, 8 fills a GPU with a single image."""

FALLBACK = (8, 0)


@cache
def register() -> None:
    """Makes the plugin known to TensorRT in this process; a second call does nothing.

    It must come before the ONNX parser, which knows the node by it alone.
    Raises BackendError when TensorRT or NVRTC is missing.
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

    # All attributes, in `describe`'s order: TensorRT passes every one of them, by position.
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
        _, channels, height, width = x.shape  # -1 for a dynamic number, which the plan refuses
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
    """Compute capability of the GPU in use; 8.0 if the driver doesn't tell, whose PTX every later GPU takes too."""
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
