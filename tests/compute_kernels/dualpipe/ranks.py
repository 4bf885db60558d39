"""Runs a function on several gloo ranks, each its own process, and brings back what each returned."""

from __future__ import annotations

import multiprocessing
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
DEADLINE_S = 200.0  # eight processes import torch, on as few cores as there are


def run_ranks(world: int, store: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`work(rank, *arguments)` on each rank. Raises with the first failing rank's traceback."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "threefs.compute_kernels.dualpipe"])
    pipes = [context.Pipe(duplex=False) for _ in range(world)]
    processes = [
        context.Process(target=_rank_main, args=(rank, world, str(store), pipes[rank][1], work, arguments))
        for rank in range(world)
    ]
    sys.path.append(str(ROOT))  # a child takes over the path, and needs it to find `work`
    try:
        for process, (_, sender) in zip(processes, pipes, strict=True):
            process.start()
            sender.close()
        return [_collect(rank, receiver) for rank, (receiver, _) in enumerate(pipes)]
    finally:
        sys.path.remove(str(ROOT))
        for process in (each for each in processes if each.pid is not None):
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()


def _collect(rank: int, receiver: Connection) -> Any:
    if not receiver.poll(DEADLINE_S):
        raise TimeoutError(f"rank {rank} gave no answer within {DEADLINE_S:g} s: a deadlock?")
    try:
        is_error, answer = receiver.recv()
    except EOFError:
        raise RuntimeError(f"rank {rank} died without an answer") from None
    if is_error:
        raise RuntimeError(f"rank {rank} failed:\n{answer}")
    return answer


def _rank_main(
    rank: int, world: int, store: str, sender: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
        answer = work(rank, *arguments)
        dist.barrier()
        dist.destroy_process_group()
        sender.send((False, answer))
    except BaseException:
        sender.send((True, traceback.format_exc()))
