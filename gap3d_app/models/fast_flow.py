"""A flow network as a pipeline runs it on CUDA: fast for one asset, and plain again when it must move."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from gap3d_app.flow.graphs import GraphedFlow
from gap3d_app.models.acceleration import accelerated, plain, uncompiled
from gap3d_app.models.grid_dit import GridDiT
from gap3d_app.models.slat_flow import SLatFlowModel
from gap3d_app.sparse.tensor import SparseTensor

logger = logging.getLogger(__name__)

MOST_CONDITIONS = 2
"""A picture or a prompt, and nothing to guide against."""


class FastFlow:
    """Stands for `flow` in `FlowSampler.run`: measured kernels, joined products, recorded and perhaps compiled steps.

    That is for one asset under at most `MOST_CONDITIONS`, which is what a person waits for. Batches and the mean over
    many pictures fill the GPU by themselves, and each of their many forms would be compiled and recorded anew, so they
    go through the plain blocks. What cannot be compiled here runs without.

    Args:
        flow: a `GridDiT`, `SparseStructureFlowModel` or `SLatFlowModel`; changed in place at its first run. Its
            weights must stay where they are until `undo`.
        compile_blocks: compile its blocks at the first run, which takes tens of seconds.

    Attributes:
        ready: whether a run has come through, so that the next one waits for nothing.
    """

    def __init__(self, flow: nn.Module, compile_blocks: bool = False) -> None:
        self.flow, self.compile_blocks, self.ready = flow, compile_blocks, False
        self.steps: GraphedFlow | None = None

    @property
    def config(self) -> Any:
        """The network's sizes."""
        return self.flow.config

    def prepare(self, conditions: list[Any], times: Tensor) -> list[list[Any]]:
        """See the network."""
        if self.steps is None:
            accelerated(
                self.flow, _tokens(self.flow), conditions[0].shape[1], False, compile_blocks=self.compile_blocks
            )
            self.steps = GraphedFlow(self.flow)
        model = self.flow if _many(conditions[0], conditions) else self.steps
        return model.prepare(conditions, times)

    def velocities(self, state: Any, prepared: list[Any]) -> list[Any]:
        """See the network."""
        if _many(state, prepared):
            with _plain_blocks(self.flow):
                return self.flow.velocities(state, prepared)
        if not self.compile_blocks:
            found = self.steps.velocities(state, prepared)
        else:
            try:
                found = self.steps.velocities(state, prepared)
            except _compilation_errors() as error:
                reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
                logger.warning("The networks run without compilation: %s", reason)
                found = None
            if found is None:
                self.compile_blocks = False
                uncompiled(self.flow)
                found = self.steps.velocities(state, prepared)
        self.ready = True
        return found

    def rest(self, sparing: bool = False) -> None:
        """End a stage: the recorded steps of a structured latent go, since the next asset has other voxels.

        Args:
            sparing: the others go too; the next run makes them again, in the time of some single steps.
        """
        if self.steps is None:
            return
        if sparing:
            self.steps.forget()
        elif isinstance(self.flow, SLatFlowModel):
            self.steps.forget_steps()

    def undo(self) -> None:
        """Make the network plain, so that its weights may move, and give the records' memory back."""
        self.steps = None
        plain(self.flow)


def _compilation_errors() -> tuple[type[Exception], ...]:
    """No compiler here, or too many forms."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    return TorchDynamoException, FailOnRecompileLimitHit


def _tokens(flow: nn.Module) -> int:
    """About the length of the network's sequence; of a structured latent, that of some 20,000 voxels at full size."""
    config = flow.config
    if isinstance(flow, GridDiT):
        return 1 + config.num_register_tokens + config.input_size**2
    side = config.resolution // config.patch_size
    return 4 * side**2 if isinstance(flow, SLatFlowModel) else side**3


def _many(state: Any, conditions: list[Any]) -> bool:
    """Whether this is more than one asset, or under more conditions than are worth a form of their own."""
    if isinstance(state, tuple):
        state = state[0]
    assets = state.batch_size if isinstance(state, SparseTensor) else len(state)
    return assets > 1 or len(conditions) > MOST_CONDITIONS


@contextmanager
def _plain_blocks(flow: nn.Module) -> Iterator[None]:
    """Blocks as they were before they were compiled."""
    fast = uncompiled(flow)
    try:
        yield
    finally:
        vars(flow).update(fast)
