"""`DualPipe` and `DualPipeV`, with the names and arguments of the original.

The rule: they differ in where stages live and in their schedule, in nothing else.
"""

from __future__ import annotations

from threefs.compute_kernels.dualpipe.errors import PipelineError
from threefs.compute_kernels.dualpipe.runtime import Pipeline, Place
from threefs.compute_kernels.dualpipe.schedule import Schedule, dualpipe_schedule, dualpipev_schedule


class DualPipe(Pipeline):
    """Bidirectional pipeline over an even number of ranks.

    Rank r is given stages r and P-1-r. The first rank feeds one direction, the last rank the other; each gets the
    labels of the chunks that end with it, which are those the other feeds. Ranks r and P-1-r hold the same two
    stages: the caller sums their gradients.
    """

    def places(self) -> list[Place]:
        if self.num_ranks % 2:
            raise PipelineError(
                f"process_group: DualPipe needs an even number of ranks, got {self.num_ranks}; DualPipeV takes any"
            )
        mirror = self.num_ranks - 1 - self.rank
        # `modules` are stages r and P-1-r: of pipe 0 the stage r, and of pipe 1, which runs the other way, P-1-r.
        return [(0, self.rank), (1, mirror)]

    def make_schedule(self, num_chunks: int) -> Schedule:
        return dualpipe_schedule(self.num_ranks, num_chunks)


class DualPipeV(Pipeline):
    """V-shaped pipeline over any number of ranks.

    Rank r is given stages r and 2P-1-r. The first rank feeds the pipeline and ends it.
    """

    def places(self) -> list[Place]:
        return [(0, self.rank), (0, 2 * self.num_ranks - 1 - self.rank)]

    def make_schedule(self, num_chunks: int) -> Schedule:
        return dualpipev_schedule(self.num_ranks, num_chunks)
