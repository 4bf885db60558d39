"""A pipeline stage of MoE layers that can run a forward and a backward pass through each other.

Given to `DualPipe`/`DualPipeV` as a module. Both passes are generators that stop each time they have started an
exchange. Run alone, a pass waits for each exchange at once. Run in turn, each computes while the other's rows are
under way:

    computes   attend(F)   expert(B)     expert(F)     attend(B)   merge+attend(F) ...
    sends      combine(B)  dispatch(F)   dispatch(B)   combine(F)  combine(B)      ...

The rule: autograd never runs across an exchange. Each stretch has its own small graph, from detached inputs to
outputs, kept on the pass's tape; the backward pass walks the tape from the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.profiler import record_function

from threefs.compute_kernels.dualpipe.moe.layer import Attended, MoEConfig, MoELayer

Pass = Generator[None, None, torch.Tensor]


@dataclass
class LayerTape:
    """One layer's three stretches: their detached inputs and their outputs."""

    attend_input: torch.Tensor
    attended: Attended
    expert_input: torch.Tensor
    expert_output: torch.Tensor
    merge_inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    merged: torch.Tensor


@dataclass(eq=False)
class Tape:
    """A stage's pass over one chunk. `source` and `result` are the tensors that the pipeline sees."""

    layers: list[LayerTape] = field(default_factory=list)
    source: torch.Tensor | None = None
    result: torch.Tensor | None = None

    def close(self) -> None:
        """Let go of everything: the result's graph holds this tape, which holds the result."""
        self.layers.clear()
        self.source = self.result = None


class MoEStage(nn.Module):
    """`layers_per_stage` layers. With `overlap` false the hook runs one pass after the other, for comparison."""

    def __init__(
        self, config: MoEConfig, expert_group: dist.ProcessGroup | None = None, *, overlap: bool = True
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MoELayer(config, expert_group) for _ in range(config.layers_per_stage))
        self.expert_group = expert_group
        self.overlap = overlap
        self.tapes: deque[Tape] = deque()

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return _run(self._forward_pass(value, None))
        return self._remember(value, _run)

    @classmethod
    def overlapped_forward_backward(
        cls,
        module0: MoEStage,
        inputs0: Sequence[torch.Tensor],
        criterion0: Callable[..., torch.Tensor] | None,
        labels0: Sequence[torch.Tensor],
        module1: MoEStage,
        loss1: torch.Tensor | None,
        outputs1: Sequence[torch.Tensor],
        output_grads1: Sequence[torch.Tensor],
    ) -> tuple[tuple[torch.Tensor], torch.Tensor | None]:
        """The pipeline's hook: a forward pass of `module0` through a backward pass of `module1`."""
        tape = module1.tapes.popleft()
        assert tape.result is not None
        gradient = output_grads1[0] if loss1 is None else torch.autograd.grad(loss1, tape.result)[0]
        backward = module1._backward_pass(tape, gradient)

        def through(forward: Pass) -> torch.Tensor:
            if module0.overlap:
                return _alternate(backward, forward)[1]
            result = _run(forward)
            _run(backward)
            return result

        output = module0._remember(inputs0[0], through)
        tape.close()
        return (output,), criterion0(output, *labels0) if criterion0 is not None else None

    def _remember(self, value: torch.Tensor, run: Callable[[Pass], torch.Tensor]) -> torch.Tensor:
        """Run a forward pass by `run` and hang its tape into autograd's graph."""
        tape = Tape()
        anchor = torch.zeros((), device=value.device, requires_grad=True)  # the first stage's input needs no gradient
        output: torch.Tensor = _StagePass.apply(value, anchor, self, tape, run)  # type: ignore[no-untyped-call]
        tape.source, tape.result = value, output
        self.tapes.append(tape)
        return output

    # -- the two passes ------------------------------------------------------------------------------------------

    def _forward_pass(self, value: torch.Tensor, tape: Tape | None) -> Pass:
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, MoELayer)
            value = yield from self._forward_layer(index, layer, value, tape)
        return value

    def _forward_layer(self, index: int, layer: MoELayer, value: torch.Tensor, tape: Tape | None) -> Pass:
        attend_input = _leaf(value)
        with record_function(f"layer{index}.attend.forward"):
            attended, path = layer.attend(attend_input)
        arriving = self._start(f"layer{index}.dispatch.forward", attended.rows.detach())
        yield
        expert_input = _leaf(arriving.wait())
        with record_function(f"layer{index}.expert.forward"):
            expert_output = layer.expert(expert_input)
        returning = self._start(f"layer{index}.combine.forward", expert_output.detach())
        yield
        merge_inputs = (_leaf(attended.residual), _leaf(attended.weights), _leaf(returning.wait()))
        with record_function(f"layer{index}.merge.forward"):
            merged = layer.merge(*merge_inputs, path)
        if tape is not None:
            tape.layers.append(LayerTape(attend_input, attended, expert_input, expert_output, merge_inputs, merged))
        return merged.detach()

    def _backward_pass(self, tape: Tape, gradient: torch.Tensor) -> Pass:
        for index in reversed(range(len(tape.layers))):
            gradient = yield from self._backward_layer(index, tape.layers.pop(), gradient)
        if tape.source is not None and tape.source.requires_grad:
            tape.source.grad = gradient
        return gradient

    def _backward_layer(self, index: int, layer: LayerTape, gradient: torch.Tensor) -> Pass:
        with record_function(f"layer{index}.merge.backward"):
            torch.autograd.backward(layer.merged, gradient)
        residual, weights, rows = (_gradient(value) for value in layer.merge_inputs)
        arriving = self._start(f"layer{index}.combine.backward", rows)
        yield
        with record_function(f"layer{index}.expert.backward"):
            torch.autograd.backward(layer.expert_output, arriving.wait())
        returning = self._start(f"layer{index}.dispatch.backward", _gradient(layer.expert_input))
        yield
        packed = returning.wait()
        with record_function(f"layer{index}.attend.backward"):
            torch.autograd.backward(layer.attended, (residual, weights, packed))
        return _gradient(layer.attend_input)

    def _start(self, name: str, rows: torch.Tensor) -> Exchange:
        with record_function(name):
            return Exchange(rows.contiguous(), self.expert_group)


class Exchange:
    """Equal parts of rows to and from every rank of a group, under way from construction until `wait`."""

    def __init__(self, rows: torch.Tensor, group: dist.ProcessGroup | None) -> None:
        self._sent = rows
        self._received = rows
        self._work: dist.Work | None = None
        if group is not None:
            self._received = torch.empty_like(rows)
            self._work = dist.all_to_all_single(self._received, rows, group=group, async_op=True)

    def wait(self) -> torch.Tensor:
        if self._work is not None:
            self._work.wait()
        return self._received


class _StagePass(torch.autograd.Function):
    """A whole stage as one node, so that a plain backward works too."""

    @staticmethod
    def forward(
        ctx: Any,
        value: torch.Tensor,
        anchor: torch.Tensor,
        stage: MoEStage,
        tape: Tape,
        run: Callable[[Pass], torch.Tensor],
    ) -> torch.Tensor:
        ctx.stage, ctx.tape = stage, tape
        with torch.enable_grad():
            return run(stage._forward_pass(value, tape))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None, None]:
        stage, tape = ctx.stage, ctx.tape
        stage.tapes.remove(tape)
        wanted = tape.source.requires_grad
        tape.source = None  # autograd hands the gradient on by itself
        with torch.enable_grad():
            gradient = _run(stage._backward_pass(tape, gradients[0]))
        tape.close()
        return gradient if wanted else None, None, None, None, None


def _run(steps: Pass) -> torch.Tensor:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: torch.Tensor = end.value
            return result


def _alternate(*passes: Pass) -> list[torch.Tensor]:
    """Resume the passes in turn until all are through."""
    results: dict[int, torch.Tensor] = {}
    while len(results) < len(passes):
        for index, steps in enumerate(passes):
            if index not in results:
                try:
                    next(steps)
                except StopIteration as end:
                    results[index] = end.value
    return [results[index] for index in range(len(passes))]


def _leaf(value: torch.Tensor) -> torch.Tensor:
    return value.detach().requires_grad_(torch.is_grad_enabled())


def _gradient(leaf: torch.Tensor) -> torch.Tensor:
    assert leaf.grad is not None, "a stretch's input got no gradient"
    return leaf.grad
