"""The CUDA driver as the kernels use it: device check, cubin load, tensor maps, launches.

Called by `kernel` and by the host wrappers. The one rule: every driver call's code goes through `_check`.
PyTorch owns the context and the memory; this module only borrows the current stream.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch

from threefs.compute_kernels.errors import DeviceUnavailable, DriverError, InvalidInput

__all__ = [
    "Argument",
    "Launch",
    "LoadedKernel",
    "TensorMap",
    "current_stream",
    "require_hopper",
    "tensor_map",
    "tensor_map_at",
]

SHARED_MEMORY_BYTES_MAX = 232_448  # of one block on sm_90
Argument = Any  # of ctypes: a number, a structure or a tensor map; the kernel decides which
TensorMap = ctypes.Array[ctypes.c_char]

_HINTS = {
    700: "a kernel read or wrote outside its memory; the context is lost, start a new process",
    719: "a kernel crashed; the context is lost, start a new process",
    209: "the cubin is for another architecture; kernels are built for sm_90a (H100, H200)",
    201: "no CUDA context is current; allocate a tensor on the device first",
    2: "out of device memory",
}


@cache
def _driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError as exc:
        raise DeviceUnavailable("cuda.bindings is not installed: pip install 'threefs[kernels]'") from exc
    return driver


def _check(call: str, result: Sequence[Any]) -> Any:
    """The call's value, or `DriverError`. Bindings return (code, value...)."""
    if code := int(result[0]):
        name = getattr(result[0], "name", str(result[0]))
        raise DriverError(call, code, name, _HINTS.get(code, ""))
    return result[1] if len(result) > 1 else None


@cache
def require_hopper(index: int) -> int:
    """The number of multiprocessors of device `index`, or `DeviceUnavailable` with the reason."""
    if not torch.cuda.is_available():
        raise DeviceUnavailable(
            "no CUDA device is visible: these kernels need an H100 or H200; nvidia-smi shows what the driver sees, "
            f"and PyTorch must be a CUDA build (this one is {torch.__version__})"
        )
    major, minor = torch.cuda.get_device_capability(index)
    if (major, minor) != (9, 0):
        raise DeviceUnavailable(
            f"device {index} is {torch.cuda.get_device_name(index)!r} with compute capability {major}.{minor}; "
            "these kernels are machine code for 9.0 (H100, H200) only"
        )
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def current_stream(device: torch.device) -> int:
    """The handle of PyTorch's current stream on `device`."""
    return int(torch._C._cuda_getCurrentRawStream(device.index or 0))


_DTYPES = {
    torch.float8_e4m3fn: "CU_TENSOR_MAP_DATA_TYPE_UINT8",
    torch.uint8: "CU_TENSOR_MAP_DATA_TYPE_UINT8",
    torch.bfloat16: "CU_TENSOR_MAP_DATA_TYPE_BFLOAT16",
    torch.float16: "CU_TENSOR_MAP_DATA_TYPE_FLOAT16",
    torch.float32: "CU_TENSOR_MAP_DATA_TYPE_FLOAT32",
}


def tensor_map(
    tensor: torch.Tensor,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    box: tuple[int, ...],
    *,
    swizzle_bytes: int = 128,
) -> TensorMap:
    """Describe `tensor`'s memory to the copy engine, fastest axis first.

    `strides` are in elements and leave out the fastest axis, which is contiguous. Elements outside `shape`
    read as zero. Maps are kept by address and geometry, so a repeated call costs a dictionary lookup.
    """
    return tensor_map_at(tensor.data_ptr(), tensor.dtype, shape, strides, box, swizzle_bytes)


@lru_cache(maxsize=4096)
def tensor_map_at(
    address: int,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    box: tuple[int, ...],
    swizzle_bytes: int,
) -> TensorMap:
    """`tensor_map` for memory at an address."""
    check_map_geometry(address, dtype, shape, strides, box, swizzle_bytes)
    driver = _driver()
    rank, size = len(shape), dtype.itemsize
    swizzle = driver.CUtensorMapSwizzle
    encoded = _check(
        "cuTensorMapEncodeTiled",
        driver.cuTensorMapEncodeTiled(
            getattr(driver.CUtensorMapDataType, _DTYPES[dtype]),
            rank,
            address,
            [driver.cuuint64_t(extent) for extent in shape],
            [driver.cuuint64_t(stride * size) for stride in strides],
            [driver.cuuint32_t(extent) for extent in box],
            [driver.cuuint32_t(1)] * rank,
            driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            getattr(swizzle, f"CU_TENSOR_MAP_SWIZZLE_{f'{swizzle_bytes}B' if swizzle_bytes else 'NONE'}"),
            driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        ),
    )
    copy = ctypes.create_string_buffer(128)
    ctypes.memmove(copy, int(encoded.getPtr()), 128)
    return copy


def check_map_geometry(
    address: int,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    box: tuple[int, ...],
    swizzle_bytes: int,
) -> None:
    """The copy engine's limits, so that a mistake has a sentence and not a number."""
    size = dtype.itemsize
    if address % 16:
        raise InvalidInput(
            f"the tensor's address {address:#x} is not a multiple of 16 bytes: copy it or align the view"
        )
    for stride in strides:
        if stride * size % 16:
            raise InvalidInput(
                f"a row stride of {stride} elements of {dtype} is {stride * size} bytes, not a multiple of 16: "
                "pad the rows or make the tensor contiguous"
            )
    assert len(box) == len(shape) == len(strides) + 1, (shape, strides, box)
    assert all(1 <= extent <= 256 for extent in box), box
    assert all(0 < extent <= 2**32 for extent in shape), shape
    assert box[0] * size % 16 == 0, (box, dtype)
    assert swizzle_bytes in (0, 32, 64, 128), swizzle_bytes
    assert swizzle_bytes == 0 or box[0] * size <= swizzle_bytes, (box, dtype)


@dataclass(frozen=True)
class Launch:
    """The shape of a launch."""

    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    cluster: int = 1  # blocks along x
    overlap: bool = True  # may start while the stream's previous kernel drains; the kernel itself waits for it
    cooperative: bool = False  # all blocks are there at once, so they may wait for each other


@lru_cache(maxsize=4096)
def _config(launch: Launch, stream: int) -> Any:
    driver = _driver()
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = launch.grid
    config.blockDimX, config.blockDimY, config.blockDimZ = launch.threads, 1, 1
    config.sharedMemBytes = launch.shared_bytes
    config.hStream = driver.CUstream(stream)
    attributes = []
    if launch.cluster > 1:
        cluster = driver.CUlaunchAttribute()
        cluster.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        cluster.value.clusterDim.x, cluster.value.clusterDim.y, cluster.value.clusterDim.z = launch.cluster, 1, 1
        attributes.append(cluster)
    if launch.overlap:
        overlap = driver.CUlaunchAttribute()
        overlap.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        overlap.value.programmaticStreamSerializationAllowed = 1
        attributes.append(overlap)
    if launch.cooperative:
        together = driver.CUlaunchAttribute()
        together.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
        together.value.cooperative = 1
        attributes.append(together)
    config.attrs = attributes
    config.numAttrs = len(attributes)
    return config


class LoadedKernel:
    """A cubin in the driver and its entry point."""

    def __init__(self, name: str, cubin: bytes, entry: str) -> None:
        driver = _driver()
        self.name = name
        self._launch_call = driver.cuLaunchKernelEx
        self._library = _check("cuLibraryLoadData", driver.cuLibraryLoadData(cubin, [], [], 0, [], [], 0))
        self._kernel = _check("cuLibraryGetKernel", driver.cuLibraryGetKernel(self._library, entry.encode()))
        self._function = driver.CUfunction(int(self._kernel))
        self._prepared: set[int] = set()

    def _prepare(self, device: int) -> None:
        """Once a device: allow the whole shared memory and clusters of any size up to eight."""
        driver = _driver()
        attribute = driver.CUfunction_attribute
        shared = attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        static = attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
        target = _check("cuDeviceGet", driver.cuDeviceGet(device))
        used = int(_check("cuKernelGetAttribute", driver.cuKernelGetAttribute(static, self._kernel, target)))
        limit = SHARED_MEMORY_BYTES_MAX - used
        _check("cuKernelSetAttribute", driver.cuKernelSetAttribute(shared, limit, self._kernel, target))
        self._prepared.add(device)

    def launch(self, launch: Launch, arguments: Sequence[Argument], device: torch.device) -> None:
        """Queue on PyTorch's current stream of `device`. Does not wait."""
        index = device.index or 0
        if index not in self._prepared:
            self._prepare(index)
        config = _config(launch, current_stream(device))
        prepared = Prepared(self._launch_call, config, self._function, arguments, f"{self.name}, {launch}")
        prepared.launch()
        if (launches := getattr(_recorder, "launches", None)) is not None:
            launches.append(prepared)


class Prepared:
    """A launch with all that the driver needs; `launch` may be called again while the arguments' memory is there."""

    def __init__(
        self, call: Callable[..., Any], config: Any, function: Any, arguments: Sequence[Argument], what: str
    ) -> None:
        self._call, self._config, self._function, self._what = call, config, function, what
        self._arguments = arguments
        self._addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        self._at = ctypes.addressof(self._addresses)

    def launch(self) -> None:
        (code,) = self._call(self._config, self._function, self._at, 0)
        if code:
            _check(f"cuLaunchKernelEx({self._what})", (code,))


_recorder = threading.local()


@contextmanager
def recording() -> Iterator[list[Prepared]]:
    """Collects the launches of this thread."""
    before = getattr(_recorder, "launches", None)
    launches: list[Prepared] = []
    _recorder.launches = launches
    try:
        yield launches
    finally:
        _recorder.launches = before
