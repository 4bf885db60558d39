"""The kernels' guide: its examples run, and the names it mentions are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from threefs.compute_kernels import deep_gemm, flash_mla, warmup

pytestmark = pytest.mark.kernels
_GUIDE = Path(__file__).parents[2].joinpath("docs", "kernels", "README.md").read_text()
_EXAMPLES = re.findall(r"```python\n(.*?)```", _GUIDE, re.DOTALL)


def test_names_are_there() -> None:
    named = set(re.findall(r"\b(?:\w+_gemm_\w+|flash_mla_\w+|get_\w+_metadata|quantise_\w+|fp8_\w+_logits)\b", _GUIDE))
    assert len(named) > 15
    missing = [name for name in named if not hasattr(deep_gemm, name) and not hasattr(flash_mla, name)]
    assert not missing


def test_what_is_compiled_ahead_of_time() -> None:
    commands = re.findall(r"^    3fs warmup(.*?)(?:#.*)?$", _GUIDE, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert warmup.sources(command.split()), command


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a Hopper GPU")
@pytest.mark.parametrize("example", _EXAMPLES)
def test_examples_run(example: str) -> None:
    exec(example, {})
    torch.cuda.synchronize()
