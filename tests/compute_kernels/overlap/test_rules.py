"""Which kernels are communication, without configuration and with."""

from __future__ import annotations

from pathlib import Path

import pytest

from threefs.compute_kernels.overlap import TraceError, load_rules
from threefs.compute_kernels.overlap.rules import classify, function_name, short_name

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("void deep_ep::intranode::dispatch<8, 768, 8192>(int4*, float*, long*)", "DeepEP"),
        ("void deep_ep::internode_ll::combine<true, 3, 7168, 9>(void*, void*)", "DeepEP"),
        ("void deep_ep::internode::cached_notify<false, 2>(int)", "DeepEP"),
        ("deep_ep::layout::get_dispatch_layout(long const*)", "DeepEP"),
        ("void dispatch_impl<1, 2>(int)", "DeepEP"),
        ("combine_ll", "DeepEP"),
        ("notify_dispatch", "DeepEP"),
        ("nvshmemi_transfer_rma_p2p(void*)", "NVSHMEM"),
        ("void nvshmem::barrier_on_stream_kernel_threadgroup<2>(int)", "NVSHMEM"),
        ("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)", "NCCL"),
        ("ncclKernel_AllReduce_RING_LL_Sum_float(ncclWorkElem)", "NCCL"),
        ("void two_shot_all_reduce_kernel<c10::BFloat16>(int)", "symmetric memory"),
        ("void vllm::cross_device_reduce_1stage<half, 2>(vllm::RankData*)", "symmetric memory"),
        ("Memcpy PtoP (Device -> Device)", "peer copy"),
    ],
)
def test_communication_needs_no_configuration(name: str, label: str) -> None:
    rule = classify(name, ())
    assert (rule.kind, rule.label) == ("communication", label)


@pytest.mark.parametrize(
    ("name", "kind", "label"),
    [
        ("void cutlass::device_kernel<at::cuda::detail::DispatchPolicy<combine>>(T)", "compute", "matrix product"),
        ("nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_TNT", "compute", "matrix product"),
        ("void flash::flash_fwd_splitkv_combine_kernel<Traits, 16>(Params)", "compute", "attention"),
        (
            "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float>(int)",
            "compute",
            "normalisation",
        ),
        ("Memcpy HtoD (Pinned -> Device)", "memory", "copy"),
        ("Memset (Device)", "memory", "set"),
        ("spin", "compute", "other"),
    ],
)
def test_computation_and_memory(name: str, kind: str, label: str) -> None:
    rule = classify(name, ())
    assert (rule.kind, rule.label) == (kind, label)


def test_function_names() -> None:
    assert function_name("void a::b<c<1>, d>(e, f)") == "a::b"
    assert function_name("void at::native::(anonymous namespace)::k<float>(int)") == "at::native::anonymous::k"
    assert function_name("triton_poi_fused_add_0") == "triton_poi_fused_add_0"
    mul = "void at::native::elementwise_kernel<128, 4, at::native::BinaryFunctor<float>>(int)"
    assert short_name(mul) == "native::elementwise_kernel [BinaryFunctor]"


def test_rules_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[rule]]\npattern = "^my_ring"\nkind = "communication"\nlabel = "ring"\n')
    assert classify("my_ring_send(int)", load_rules(path)).label == "ring"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[rule]\n", "not a rule file"),
        ('[[rule]]\npattern = "a"\n', "not a rule file"),
        ('[[rule]]\npattern = "a"\nkind = "noise"\nlabel = "x"\n', "kind is one of compute, communication, memory"),
        ('[[rule]]\npattern = "("\nkind = "memory"\nlabel = "x"\n', "no regular expression"),
    ],
)
def test_bad_rule_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(TraceError, match=message):
        load_rules(path)
