"""Inputs of the attention tests, and the original's tolerances: for tests on a card and on the emulator."""

from __future__ import annotations

import torch


def random_values(*shape: int, device: str) -> torch.Tensor:
    """bf16, normal / 10, clamped to 1."""
    return (torch.randn(*shape, device=device) / 10).clamp(-1, 1).to(torch.bfloat16)


def page_table(lengths: list[int], page: int, device: str) -> tuple[torch.Tensor, int]:
    """Shuffled pages, huge numbers in unused entries; and how many pages the cache has."""
    needed = [-(-length // page) for length in lengths]
    table = torch.full((len(lengths), max(needed) + 1), 2**30, dtype=torch.int32)
    order, at = torch.randperm(sum(needed) + 3), 0
    for i, count in enumerate(needed):
        table[i, :count] = order[at : at + count].int()
        at += count
    return table.to(device), sum(needed) + 3


def poison_pages(cache: torch.Tensor, table: torch.Tensor, lengths: list[int]) -> None:
    """NaN in all rows and scales of an FP8 cache of pages that no request sees."""
    blocks, page = cache.shape[:2]
    flat, unused = cache.view(blocks, -1), unused_keys(blocks, page, table, lengths)
    flat[:, : page * 640].view(blocks, page, 640)[unused] = 255
    flat[:, page * 640 :].view(blocks, page, 4)[unused] = 255


def unused_keys(blocks: int, page: int, table: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Which keys of the cache no request sees: bool [blocks, page]."""
    unused = torch.ones(blocks, page, dtype=torch.bool, device=table.device)
    for i, length in enumerate(lengths):
        for j in range(-(-length // page)):
            unused[int(table[i, j]), : min(page, length - j * page)] = False
    return unused


def check_close(out: torch.Tensor, wanted: torch.Tensor, absolute: float, relative: float, cosine: float) -> None:
    wide = out.double()
    error = (wide - wanted).abs()
    assert bool(((error < absolute) | (error < relative * wanted.abs())).all()), float(error.max())
    norm = float((wide * wide + wanted * wanted).sum())
    assert norm == 0 or 1 - 2 * float((wide * wanted).sum()) / norm < cosine


def check_lse(lse: torch.Tensor, wanted: torch.Tensor) -> None:
    finite = torch.isfinite(wanted)
    assert torch.equal(torch.isposinf(lse), torch.isposinf(wanted))
    error, size = (lse.double() - wanted)[finite].abs(), wanted[finite].abs()
    # 3e-6 where the original has 1e-6: the lse of one key is its score, here near 0, a float32 sum of 576 products.
    assert bool(((error < 3e-6) | (error < 8.01 / 65536 * size)).all()), float(error.max())
