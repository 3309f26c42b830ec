"""Which networks of a pipeline take the fast way, and when it is undone: recorded steps, compiled blocks.

Steps are recorded on CUDA where networks stay on the device. Compilation takes tens of seconds and gains a quarter
of the time from text to GLB at full size, so it is asked for by what makes many assets.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from gap3d_app.models.fast_flow import FastFlow

ROLES = ("grid_dit", "structure_flow", "slat_flow", "text_structure_flow", "text_slat_flow")
"""Of the networks that take steps."""

WORTH_COMPILING = 100_000_000
"""Bytes of a network from which on compilation gains anything: those of gap3d-mini are far below."""


def recorded_on(device: torch.device) -> bool:
    """Whether steps are recorded on a device: torch does so on the current CUDA device only."""
    return device.type == "cuda" and device.index in (None, torch.cuda.current_device())


class FastFlows:
    """The flow networks of one pipeline in their fast form.

    Attributes:
        device: where they compute.
        compile: whether large ones are compiled at their first run.
        flows: those that a run has used, by role.
        sparing: whether memory is short, so that records are kept for their stage only.
    """

    def __init__(self, device: torch.device, compile: bool = False) -> None:
        self.device, self.compile = device, compile
        self.flows: dict[str, FastFlow] = {}
        self.sparing = False
        self._searched: set[str] = set()

    def of(self, role: str, network: nn.Module, size: int) -> Any:
        """A network of `size` bytes that stays where it is, as a stage should use it."""
        if role not in ROLES or not recorded_on(self.device):
            return network
        if role not in self.flows:
            from gap3d_app.models.fast_flow import FastFlow

            self.flows[role] = FastFlow(network, self.compile and size >= WORTH_COMPILING)
        return self.flows[role]

    def will_compile(self, role: str, size: int) -> bool:
        """Whether the next run of a network of `size` bytes compiles it first."""
        if role in self.flows:
            return self.flows[role].compile_blocks and not self.flows[role].ready
        return self.compile and role in ROLES and size >= WORTH_COMPILING and recorded_on(self.device)

    def rest(self) -> None:
        """End a stage: what only its asset needed goes; where memory is short, all records."""
        for flow in self.flows.values():
            flow.rest(self.sparing)
        compiled = {role for role, flow in self.flows.items() if flow.compile_blocks and flow.ready}
        if compiled - self._searched:
            gc.collect()
            gc.freeze()  # a compiler leaves so many objects that each search among them holds a step up for 30 ms
        self._searched = compiled

    def spare(self) -> bool:
        """Memory ran out: keep no records from stage to stage from now on; False when there is nothing to gain."""
        if self.sparing or not self.flows:
            return False
        self.sparing = True
        self.rest()
        return True

    def clear(self) -> None:
        """Make all networks plain again; the next run begins anew."""
        while self.flows:
            self.flows.popitem()[1].undo()
