"""Kernels on the CPU, for tests: compiles a kernel's own source against `machine.h` and runs it on CPU tensors.

`emulated` and `emulated_products` are pytest fixtures under which the public functions of `flash_mla` and `deep_gemm`
work without a GPU: they check, plan, launch and combine as they do on one, and only launches and tensor maps are
replaced. They need g++.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Hashable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from threefs.compute_kernels.deep_gemm import api as gemm_api
from threefs.compute_kernels.deep_gemm import bf16_gemm, casts, fp8_gemm, fp8_wgrad, group_ids, logits_plan, mqa_logits
from threefs.compute_kernels.flash_mla import api, dense_decode, fp8_api, fp8_decode, gather_decode, plan
from threefs.compute_kernels.jit import KernelSource, Launch, driver, replay

HERE = Path(__file__).parent
JIT = Path(driver.__file__).parent
SMS = 8  # multiprocessors that the host's logic is told of: few, so that requests are split
_FLAGS = ("-O1", "-std=c++20", "-w", "-fPIC")
# Accesses call the hooks of races.h; the sanitizer's own library is not linked.
_RACES = ("-DRACES", "-fsanitize=thread", "-fno-threadsafe-statics", "--param=tsan-instrument-func-entry-exit=0")
# Names that kernels give to their dynamic shared memory.
_ALIASES = ("-Wl,--defsym,memory=block_memory", "-Wl,--defsym,sFirst=block_memory")


@lru_cache(maxsize=64)
def _library(source: KernelSource, races: bool) -> ctypes.CDLL:
    """Compiled once: kept in the temporary folder by content, as the GPU's kernels are in their cache."""
    own = "".join(path.read_text() for path in sorted(HERE.glob("*.*")) if path.suffix != ".py")
    name = hashlib.sha256((source.fingerprint("emulator") + own + str(_FLAGS) + str(races)).encode()).hexdigest()[:32]
    target = Path(tempfile.gettempdir()) / f"threefs-emulated-{os.getuid()}" / f"{name}.so"
    if not target.exists():
        target.parent.mkdir(mode=0o700, exist_ok=True)
        _compile(source, target, races)
    return ctypes.CDLL(str(target))


def _compile(source: KernelSource, target: Path, races: bool) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        kernel = Path(folder) / source.file.name
        kernel.write_text(source.text.replace("extern __shared__", "extern"))
        output = Path(folder) / "kernel.so"
        macros = [f"-D{key}={value}" for key, value in source.constants]
        names = [f'-DKERNEL="{kernel}"', f"-DENTRY={source.entry}"]
        folders = (HERE, source.file.parent, JIT)  # in this order: `ptx.cuh` and `wgmma.cuh` are the emulator's
        paths = [part for path in folders for part in ("-iquote", str(path))]
        part = str(Path(folder) / "kernel.o")
        how = _RACES if races else ()
        for command in (
            ["g++", "-c", *_FLAGS, *how, *macros, *names, *paths, str(HERE / "main.cpp"), "-o", part],
            ["g++", "-shared", part, "-o", str(output), *_ALIASES],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
        output.replace(target)


class EmulatedKernel:
    """Takes the place of `LoadedKernel`."""

    races = False  # whether accesses that no barrier orders are faults

    def __init__(self, source: KernelSource) -> None:
        self._source, self._library = source, _library(source, self.races)

    def launch(self, launch: Launch, arguments: Sequence[Any], device: torch.device) -> None:
        assert launch.grid[0] % launch.cluster == 0, launch
        addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        run = self._library.run_together if launch.cooperative else self._library.run
        run.restype = ctypes.c_char_p
        fault = run(*launch.grid, launch.threads, launch.cluster, addresses, 1)
        assert fault is None, f"{self._source.name}, {launch}: {fault.decode()}"


class _Map(ctypes.Structure):
    """`TensorMap` of ptx.cuh here."""

    _fields_ = (
        ("address", ctypes.c_uint64),
        *((name, ctypes.c_uint32) for name in ("element", "rank", "swizzle")),
        ("shape", ctypes.c_uint32 * 5),
        ("box", ctypes.c_uint32 * 5),
        ("strides", ctypes.c_uint64 * 5),
        ("padding", ctypes.c_uint8 * 24),
    )


def _emulated_map(
    tensor: torch.Tensor,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    box: tuple[int, ...],
    swizzle_bytes: int = 128,
) -> driver.TensorMap:
    return _emulated_map_at(tensor.data_ptr(), tensor.dtype, shape, strides, box, swizzle_bytes)


def _emulated_map_at(
    address: int,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    box: tuple[int, ...],
    swizzle_bytes: int,
) -> driver.TensorMap:
    driver.check_map_geometry(address, dtype, shape, strides, box, swizzle_bytes)
    size = dtype.itemsize
    found = _Map(address=address, element=size, rank=len(shape), swizzle=swizzle_bytes)
    found.shape[: len(shape)] = shape
    found.box[: len(box)] = box
    found.strides[: len(strides)] = [stride * size for stride in strides]
    return (ctypes.c_char * ctypes.sizeof(found)).from_buffer_copy(found)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run on the CPU."""
    for module in (dense_decode, fp8_decode, gather_decode, plan):
        monkeypatch.setattr(module, "loaded", EmulatedKernel)
    for module in (dense_decode, fp8_decode):
        monkeypatch.setattr(module, "tensor_map", _emulated_map)
    for module in (api, fp8_api):
        monkeypatch.setattr(module, "sms_of", lambda device: SMS)


@pytest.fixture
def own_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the dense decode kernel's sources, which a test may break."""
    for path in dense_decode._FOLDER.glob("*.cu*"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(dense_decode, "_FOLDER", tmp_path)
    dense_decode.decode_source.cache_clear()
    yield tmp_path
    dense_decode.decode_source.cache_clear()


def break_source(folder: Path, sound: str, unsound: str) -> None:
    """Replace the one place in the folder's sources that says `sound`."""
    (path,) = (path for path in folder.glob("*.cu*") if sound in path.read_text())
    text = path.read_text()
    assert text.count(sound) == 1, sound
    path.write_text(text.replace(sound, unsound))


class _Forgetful(dict[Hashable, Any]):
    """Every call is a first one."""

    def get(self, key: Hashable, default: Any = None) -> Any:
        return default


@pytest.fixture
def emulated_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for `deep_gemm`. Repeated calls launch anew, so that each is checked."""
    for module in (bf16_gemm, casts, fp8_gemm, fp8_wgrad, group_ids, logits_plan, mqa_logits):
        monkeypatch.setattr(module, "loaded", EmulatedKernel)
    for module in (bf16_gemm, fp8_gemm, mqa_logits):
        monkeypatch.setattr(module, "tensor_map", _emulated_map)
    for module in (fp8_wgrad, mqa_logits):
        monkeypatch.setattr(module, "tensor_map_at", _emulated_map_at)
    for module in (gemm_api, bf16_gemm, fp8_wgrad, mqa_logits):
        monkeypatch.setattr(module, "sms_of", lambda device: SMS)
    for known in ("_prepared", "_known"):
        monkeypatch.setattr(replay, known, _Forgetful())
