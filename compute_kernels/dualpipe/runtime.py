"""Runs a schedule on modules and a process group.

`DualPipe` and `DualPipeV` are this with their schedules. One `_Run` holds the chunks of one `step`. The rule: this
file decides no order; it takes the schedule's steps and the message plan's batches one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.graph import get_gradient_edge

from threefs.compute_kernels.dualpipe.errors import PipelineError
from threefs.compute_kernels.dualpipe.messages import Batch, Message, Payload, plan_messages
from threefs.compute_kernels.dualpipe.p2p import Exchange, check_payload, empty_payload, p2p_layout
from threefs.compute_kernels.dualpipe.schedule import Kind, Op, Schedule, Step
from threefs.compute_kernels.dualpipe.weight_grad import WeightGradStore

Criterion = Callable[..., torch.Tensor]
Place = tuple[int, int]  # (pipe, stage)
Key = tuple[int, int, int]  # (pipe, stage, chunk)


def run_backward(tensors: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None]) -> None:
    """Backward from stage outputs whose storage may be gone already: only their place in the graph is used."""
    pairs = [(t, g) for t, g in zip(tensors, gradients, strict=True) if g is not None and t.requires_grad]
    if pairs:
        torch.autograd.backward([get_gradient_edge(t) for t, _ in pairs], [g for _, g in pairs])


class Pipeline(nn.Module):
    """What the two pipelines share. `modules` are this rank's two stages, in the order the schedule names them."""

    def __init__(
        self,
        modules: tuple[nn.Module, nn.Module],
        batch_dim: int = 0,
        process_group: dist.ProcessGroup | None = None,
        rank_mapping: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if len(modules) != 2:
            raise PipelineError(f"modules: expected two stages a rank, got {len(modules)}")
        if not dist.is_initialized():
            raise PipelineError("process_group: call torch.distributed.init_process_group() first")
        group = process_group if process_group is not None else dist.group.WORLD
        assert group is not None
        self.stages = nn.ModuleList(modules)
        self.batch_dim = batch_dim
        self.group = group
        self.num_ranks = group.size()
        self.rank, self.global_rank_of = _map_ranks(group, rank_mapping)
        self.can_overlap = type(modules[0]) is type(modules[1]) and hasattr(
            type(modules[0]), "overlapped_forward_backward"
        )
        self.exchange = Exchange(group)
        self.places()  # refuses a number of ranks that the schedule cannot run on
        self._plans: dict[tuple[int, bool], tuple[Schedule, list[Batch]]] = {}

    @property
    def is_first_rank(self) -> bool:
        return self.rank == 0

    @property
    def is_last_rank(self) -> bool:
        return self.rank == self.num_ranks - 1

    def make_schedule(self, num_chunks: int) -> Schedule:
        raise NotImplementedError  # each pipeline has its own

    def places(self) -> list[Place]:
        """(pipe, stage) of each of `stages`."""
        raise NotImplementedError  # each pipeline has its own

    def step(
        self,
        *inputs: torch.Tensor | None,
        num_chunks: int = 0,
        criterion: Criterion | None = None,
        labels: Sequence[torch.Tensor] | None = None,
        return_outputs: bool = False,
    ) -> tuple[torch.Tensor | None, torch.Tensor | tuple[torch.Tensor, ...] | None]:
        """Pass one batch through the pipeline, forward and (where gradients are enabled) back.

        Ranks that feed a pipe give `inputs`; ranks that end one give `labels`; all give the same `num_chunks`.
        Returns (losses, one for each chunk; outputs if asked for) on ranks that end a pipe, else (None, None).
        Gradients are added to the parameters'. Raises `PipelineError` before anything is sent, if a rank's own
        arguments are at fault.
        """
        p2p_layout()
        schedule, batches = self._plan(num_chunks, torch.is_grad_enabled())
        run = _Run(self, schedule, criterion, return_outputs)
        run.feed([value for value in inputs if value is not None], list(labels or ()))
        self.exchange.join(run.device)
        for step, batch in zip(schedule.steps[self.rank], batches, strict=False):
            run.exchange(batch)
            run.take(step)
        run.exchange(batches[-1])
        self.exchange.finish()
        assert not WeightGradStore.funcs_queue, "a layer put weight gradients that no step computed"
        return run.results()

    def _plan(self, num_chunks: int, with_backward: bool) -> tuple[Schedule, list[Batch]]:
        if (num_chunks, with_backward) not in self._plans:
            schedule = self.make_schedule(num_chunks)
            schedule = schedule if with_backward else schedule.forward_only()
            self._plans[num_chunks, with_backward] = schedule, plan_messages(schedule)[self.rank]
        return self._plans[num_chunks, with_backward]


def _map_ranks(group: dist.ProcessGroup, rank_mapping: Sequence[int] | None) -> tuple[int, list[int]]:
    """This process's place in the pipeline, and the global rank at each place."""
    size = group.size()
    mapping = list(rank_mapping) if rank_mapping is not None else list(range(size))
    if sorted(mapping) != list(range(size)):
        raise PipelineError(f"rank_mapping: expected each of 0..{size - 1} once, got {mapping}")
    global_rank_of = [dist.get_global_rank(group, mapping.index(place)) for place in range(size)]
    return mapping[dist.get_rank(group)], global_rank_of


class _Run:
    """The chunks of one `step`, from their inputs to their losses."""

    def __init__(self, pipeline: Pipeline, schedule: Schedule, criterion: Criterion | None, keep: bool) -> None:
        self.pipeline = pipeline
        self.schedule = schedule
        self.criterion = criterion
        self.keep = keep
        self.module_at = dict(zip(pipeline.places(), pipeline.stages, strict=True))
        self.device = _device_of(pipeline)
        self.inputs: dict[Key, list[torch.Tensor]] = {}
        self.outputs: dict[Key, list[torch.Tensor]] = {}
        self.gradients: dict[Key, list[torch.Tensor]] = {}  # of outputs
        self.outbox: dict[tuple[Payload, Key], list[torch.Tensor]] = {}
        self.labels: dict[int, list[list[torch.Tensor]]] = {}  # by pipe
        self.losses: dict[int, torch.Tensor] = {}  # by chunk; a rank ends one pipe at most
        self.kept: dict[int, list[torch.Tensor]] = {}

    # -- what comes in -------------------------------------------------------------------------------------------

    def feed(self, inputs: list[torch.Tensor], labels: list[torch.Tensor]) -> None:
        last = self.schedule.stages - 1
        for pipe, stage in self.module_at:
            if stage == 0:
                if not inputs:
                    raise PipelineError(f"inputs: rank {self.pipeline.rank} feeds the pipeline and got none")
                for chunk, parts in enumerate(self._split(inputs, "inputs")):
                    self.inputs[pipe, 0, chunk] = parts
            if stage == last:
                self.labels[pipe] = self._split(labels, "labels") if labels else []
                if torch.is_grad_enabled() and self.criterion is None:
                    raise PipelineError(
                        f"criterion: rank {self.pipeline.rank} ends the pipeline and needs one to train"
                    )

    def _split(self, tensors: list[torch.Tensor], argument: str) -> list[list[torch.Tensor]]:
        dim, chunks = self.pipeline.batch_dim, self.schedule.chunks
        for tensor in tensors:
            if tensor.dim() <= dim or tensor.shape[dim] < chunks:
                raise PipelineError(
                    f"{argument}: shape {list(tensor.shape)} does not split into {chunks} chunks along dim {dim}"
                )
        return [list(parts) for parts in zip(*(t.tensor_split(chunks, dim=dim) for t in tensors), strict=True)]

    # -- messages ------------------------------------------------------------------------------------------------

    def exchange(self, batch: Batch) -> None:
        peers = self.pipeline.global_rank_of
        sends = [
            (tensor, peers[message.target])
            for message in batch.sends
            for tensor in self.outbox.pop((message.payload, message[1:4]))
        ]
        receives = []
        for message in batch.receives:
            tensors = empty_payload(self.device)
            self._store(message, tensors)
            receives += [(tensor, peers[message.source]) for tensor in tensors]
        self.pipeline.exchange.post(sends, receives)

    def _store(self, message: Message, tensors: list[torch.Tensor]) -> None:
        if message.payload is Payload.ACTIVATION:
            self.inputs[message[1:4]] = [tensor.requires_grad_(torch.is_grad_enabled()) for tensor in tensors]
        else:
            self.gradients[message[1:4]] = tensors

    # -- computation ---------------------------------------------------------------------------------------------

    def take(self, step: Step) -> None:
        if len(step) == 2 and self.pipeline.can_overlap:
            self._overlapped(*step)
            return
        for op in step:
            if op.kind is Kind.FORWARD:
                self._forward(op)
            elif op.kind is Kind.WEIGHT:
                WeightGradStore.pop()
            else:
                self._backward(op)

    def _forward(self, op: Op) -> None:
        key = op[1:]
        outputs = _as_list(self.module_at[op.pipe, op.stage](*self.inputs[key]))
        criterion, labels = self._criterion_of(op)
        loss = criterion(*outputs, *labels) if criterion is not None else None
        self._after_forward(op, outputs, loss)

    def _backward(self, op: Op) -> None:
        loss, outputs, gradients = self._before_backward(op)
        WeightGradStore.enabled = op.kind is Kind.INPUT
        try:
            if loss is not None:
                loss.backward()  # type: ignore[no-untyped-call]
            else:
                run_backward(outputs, gradients)
        finally:
            WeightGradStore.enabled = False
        if op.kind is Kind.INPUT:
            WeightGradStore.flush()
        self._after_backward(op)

    def _overlapped(self, forward: Op, backward: Op) -> None:
        module0: Any = self.module_at[forward.pipe, forward.stage]
        module1 = self.module_at[backward.pipe, backward.stage]
        criterion, labels = self._criterion_of(forward)
        loss1, outputs1, gradients1 = self._before_backward(backward)
        outputs0, loss0 = type(module0).overlapped_forward_backward(
            module0, self.inputs[forward[1:]], criterion, labels, module1, loss1, outputs1, gradients1
        )
        self._after_forward(forward, _as_list(outputs0), loss0)
        self._after_backward(backward)

    def _criterion_of(self, op: Op) -> tuple[Criterion | None, list[torch.Tensor]]:
        if op.stage + 1 < self.schedule.stages or self.criterion is None:
            return None, []
        labels = self.labels[op.pipe]
        return self.criterion, labels[op.chunk] if labels else []

    def _after_forward(self, op: Op, outputs: list[torch.Tensor], loss: torch.Tensor | None) -> None:
        key, following = op[1:], (op.pipe, op.stage + 1, op.chunk)
        if op.stage + 1 == self.schedule.stages:
            if loss is not None:
                self.losses[op.chunk] = loss
            if self.keep:
                self.kept[op.chunk] = [output.detach() for output in outputs]
            return
        check_payload(outputs, f"stage {op.stage} of pipe {op.pipe}")
        handed_on = [output.detach() for output in outputs]
        if self.schedule.rank_of[op.pipe][op.stage + 1] == self.pipeline.rank:
            self.inputs[following] = [tensor.requires_grad_(torch.is_grad_enabled()) for tensor in handed_on]
        else:
            self.outbox[Payload.ACTIVATION, following] = [tensor.contiguous() for tensor in handed_on]
        if not torch.is_grad_enabled():
            del self.inputs[key]
            return
        for output in outputs:  # the graph needs their place only; the memory goes when the message has left
            output.data = output.data.new_empty(0)
        self.outputs[key] = outputs

    def _before_backward(self, op: Op) -> tuple[torch.Tensor | None, list[torch.Tensor], list[torch.Tensor]]:
        """(loss, [], []) at the end of a pipe, (None, outputs, their gradients) elsewhere."""
        if op.stage + 1 == self.schedule.stages:
            return self.losses[op.chunk], [], []
        return None, self.outputs.pop(op[1:]), self.gradients.pop(op[1:])

    def _after_backward(self, op: Op) -> None:
        inputs = self.inputs.pop(op[1:])
        if op.stage + 1 == self.schedule.stages:
            self.losses[op.chunk] = self.losses[op.chunk].detach()
        if op.stage == 0:
            return
        gradients = [torch.zeros_like(value) if value.grad is None else value.grad for value in inputs]
        preceding = (op.pipe, op.stage - 1, op.chunk)
        if self.schedule.rank_of[op.pipe][op.stage - 1] == self.pipeline.rank:
            self.gradients[preceding] = gradients
        else:
            self.outbox[Payload.GRADIENT, preceding] = [gradient.contiguous() for gradient in gradients]

    # -- what goes out -------------------------------------------------------------------------------------------

    def results(self) -> tuple[torch.Tensor | None, torch.Tensor | tuple[torch.Tensor, ...] | None]:
        losses = torch.stack([self.losses[chunk] for chunk in sorted(self.losses)]) if self.losses else None
        if not self.kept:
            return losses, None
        chunks = [self.kept[chunk] for chunk in sorted(self.kept)]
        joined = tuple(torch.cat(parts, dim=self.pipeline.batch_dim) for parts in zip(*chunks, strict=True))
        return losses, joined[0] if len(joined) == 1 else joined


def _device_of(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def _as_list(outputs: torch.Tensor | Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
