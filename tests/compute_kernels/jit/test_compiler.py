"""NVRTC for sm_90a on a machine without a GPU: results, errors, and what the listing shows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from threefs.compute_kernels import jit
from threefs.compute_kernels.errors import CompileFailed, DeviceUnavailable, InvalidInput, KernelError
from threefs.compute_kernels.jit import compiler, driver, kernel, sass
from threefs.compute_kernels.jit.wgmma import Wgmma, header

pytestmark = pytest.mark.kernels

_KERNEL = """
#include "wgmma.cuh"
extern "C" __global__ void __launch_bounds__(128) tiny(float* gOut) {
  __shared__ __align__(1024) u8 tile[16384];
  float r[COLUMNS / 2];
  for (u32 i = 0; i < COLUMNS / 2; ++i) r[i] = 0.f;
  pin_registers(r);
  wgmma_fence();
  wgmma_e4m3(r, k_major_descriptor(smem_address(tile)), k_major_descriptor(smem_address(tile + 8192)), true);
  wgmma_commit();
  wgmma_wait<0>();
  pin_registers(r);
  for (u32 i = 0; i < COLUMNS / 2; ++i) gOut[threadIdx.x * COLUMNS / 2 + i] = r[i];
}
"""


def _tiny(folder: Path, text: str = _KERNEL, columns: int = 64) -> jit.KernelSource:
    path = folder / "tiny.cu"
    path.write_text(text)
    return jit.KernelSource(path, "tiny", (("COLUMNS", columns),), (Wgmma("e4m3", columns),))


def test_nvrtc_compiles_for_hopper_and_the_listing_shows_the_tensor_cores(tmp_path: Path) -> None:
    compiled = compiler.compile_source(_tiny(tmp_path), "nvrtc")
    assert compiled.cubin.startswith(b"\x7fELF")
    assert compiled.registers >= 32
    assert compiled.spill_bytes == compiled.stack_bytes == 0
    found = sass.opcodes(sass.disassemble(compiled.cubin))
    assert found["QGMMA"] == found["QGMMA.64x64x32"] == 1
    assert found["HGMMA"] == 0


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_nvcc_gives_the_same_instructions(tmp_path: Path) -> None:
    compiled = compiler.compile_source(_tiny(tmp_path), "nvcc")
    assert sass.opcodes(sass.disassemble(compiled.cubin))["QGMMA.64x64x32"] == 1
    assert compiled.spill_bytes == 0


def test_a_mistake_in_a_kernel_is_reported_with_file_and_line(tmp_path: Path) -> None:
    broken = _KERNEL.replace("gOut[threadIdx.x", "gOutput[threadIdx.x")
    with pytest.raises(CompileFailed, match=r"tiny\.cu\(13\).*gOutput") as caught:
        compiler.compile_source(_tiny(tmp_path, broken), "nvrtc")
    assert "gOutput" in caught.value.log


def test_an_unknown_compiler_name_says_which_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREEFS_KERNEL_COMPILER", "gcc")
    with pytest.raises(CompileFailed, match="'nvrtc' or 'nvcc'"):
        compiler.chosen_compiler()


def test_build_compiles_once_and_then_reads_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREEFS_KERNEL_CACHE", str(tmp_path / "cache"))
    calls: list[str] = []

    def counted(source: jit.KernelSource, name: compiler.CompilerName) -> jit.Compiled:
        calls.append(source.name)
        return compiler.compile_source(source, name)

    monkeypatch.setattr(kernel, "compile_source", counted)
    sources = [_tiny(tmp_path), _tiny(tmp_path), _tiny(tmp_path, columns=32)]
    assert jit.warmup(sources) == 2
    assert sorted(calls) == ["tiny COLUMNS=32", "tiny COLUMNS=64"]
    assert jit.build(sources[0]).cubin.startswith(b"\x7fELF")
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        (Wgmma("e4m3", 8), ["wgmma_e4m3(float (&d)[4], u64 a", "m64n8k32.f32.e4m3.e4m3", "p, 1, 1;"]),
        (Wgmma("bf16", 64), ["m64n64k16.f32.bf16.bf16", "p, 1, 1, 0, 0;"]),
        (Wgmma("f16", 256, b_transposed=True), ["wgmma_f16_bt(float (&d)[128]", "p, 1, 1, 0, 1;"]),
        (
            Wgmma("bf16", 256, a_registers=True, b_transposed=True),
            ["const u32 (&a)[4]", "{%128, %129, %130, %131}, %132", "p, 1, 1, 1;"],
        ),
    ],
)
def test_wrappers_name_every_register_once(shape: Wgmma, parts: list[str]) -> None:
    text = header((shape,))
    assert all(part in text for part in parts), text
    assert text.count('"+f"') == shape.n // 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a GPU")
def test_without_a_gpu_the_error_says_so() -> None:
    with pytest.raises(DeviceUnavailable, match="H100 or H200"):
        driver.require_hopper(0)


def test_the_copy_engines_limits_have_sentences() -> None:
    with pytest.raises(InvalidInput, match="not a multiple of 16 bytes"):
        driver.check_map_geometry(0x1008, torch.float8_e4m3fn, (128, 4), (128,), (128, 4), 128)
    with pytest.raises(InvalidInput, match="row stride of 100 elements"):
        driver.check_map_geometry(0x1000, torch.float8_e4m3fn, (100, 4), (100,), (16, 4), 128)
    driver.check_map_geometry(0x1000, torch.float8_e4m3fn, (112, 4), (112,), (112, 4), 128)


def test_a_damaged_cubin_is_no_listing() -> None:
    with pytest.raises(KernelError, match="nvdisasm failed"):
        sass.disassemble(b"not a cubin")
