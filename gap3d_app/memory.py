"""Where the networks are while a run works: the memory modes, and what happens when memory runs out.

`resident` keeps every network on the device. `low-vram` keeps them in the host's memory and brings a stage's own to
the device for that stage only; a network that alone would fill a small card (the language model) comes block by
block. Results are the same, a run takes longer by the copies. In both modes tables of tokens stay with the host: rows
of them are what a stage needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gap3d_app.errors import InputError, OutOfMemory
from gap3d_app.modes import LARGEST_WHOLE, LOW_VRAM, MODES, RESIDENT, WORKING_SET
from gap3d_app.nn.embeddings import TokenEmbedding


class Residency:
    """Where the networks of one pipeline are.

    Attributes:
        device: where the networks compute.
        mode: one of MODES.
        present: names of the networks that were brought to the device for the stage at work (low-vram mode).
        used, peak: bytes of weights that are on the device in low-vram mode, and the most that ever were.
    """

    def __init__(self, device: torch.device, mode: str = RESIDENT, largest_whole: int = LARGEST_WHOLE) -> None:
        if mode not in MODES:
            raise InputError(f"The memory mode is {mode!r}; it must be auto or one of {', '.join(MODES)}.")
        self.device, self.mode, self.largest_whole = torch.device(device), mode, largest_whole
        self.present: list[str] = []
        self.used = self.peak = 0
        self._away: list[_Visit] = []

    @property
    def home(self) -> torch.device:
        """Where networks are loaded to, and where they are between the stages that use them."""
        return self.device if self.mode == RESIDENT else torch.device("cpu")

    def settle(self, network: nn.Module) -> nn.Module:
        """A network that was loaded to its home, with its tables of tokens in the host's memory."""
        for module in network.modules():
            if isinstance(module, TokenEmbedding):
                module.to("cpu")
        return network

    def bring(self, name: str, network: nn.Module) -> None:
        """Make a network ready for the stage at work."""
        if self.mode == RESIDENT or name in self.present:
            return
        self.present.append(name)
        if byte_size(network) <= self.largest_whole:
            self._away.append(_Visit(self, network))
            return
        blocks = [block for part in network.modules() if isinstance(part, nn.ModuleList) for block in part]
        inside = {id(tensor) for block in blocks for _, _, tensor in _slots(block)}
        self._away.append(_Visit(self, network, without=inside))
        for block in blocks:
            self._away.append(_BlockVisits(self, block))

    def send_home(self) -> None:
        """End a stage: the networks that were brought give the device's memory back."""
        while self._away:
            self._away.pop().end()
        self.present.clear()

    def lower(self, networks: dict[str, nn.Module]) -> bool:
        """Go to the next lower mode; False when there is none. All networks leave the device."""
        self.send_home()
        if self.mode == MODES[-1]:
            return False
        self.mode = MODES[MODES.index(self.mode) + 1]
        for network in networks.values():
            network.to(self.home)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return True


class _Visit:
    """A network's tensors on the device; the host's own are kept, so that going home copies nothing."""

    def __init__(self, residency: Residency, network: nn.Module, without: set[int] = frozenset()) -> None:
        self.residency = residency
        stay = {id(m.weight) for m in network.modules() if isinstance(m, TokenEmbedding)} | without
        self.slots = [slot for slot in _slots(network) if id(slot[2]) not in stay]
        copies: dict[int, Tensor] = {}  # tied weights are one tensor in two places
        for _, _, tensor in self.slots:
            if id(tensor) not in copies:
                moved = tensor.detach().to(residency.device)
                copies[id(tensor)] = nn.Parameter(moved, False) if isinstance(tensor, nn.Parameter) else moved
        # Only now, so that nothing stays on the device when memory runs out half way.
        for store, key, tensor in self.slots:
            store[key] = copies[id(tensor)]
        self.bytes = sum(tensor.nbytes for tensor in copies.values())
        residency.used += self.bytes
        residency.peak = max(residency.peak, residency.used)

    def end(self) -> None:
        for store, key, tensor in self.slots:
            store[key] = tensor
        self.residency.used -= self.bytes


class _BlockVisits:
    """A block that is on the device only while it computes."""

    def __init__(self, residency: Residency, block: nn.Module) -> None:
        self.residency, self.visit = residency, None
        self.hooks = [block.register_forward_pre_hook(self._enter),
                      block.register_forward_hook(self._leave, always_call=True)]  # fmt: skip

    def _enter(self, block: nn.Module, _: Any) -> None:
        self.visit = _Visit(self.residency, block)

    def _leave(self, *_: Any) -> None:
        if self.visit is not None:
            self.visit.end()
            self.visit = None

    def end(self) -> None:
        self._leave()
        for hook in self.hooks:
            hook.remove()


def _slots(network: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """Every place of a parameter or buffer: the dictionary, the key in it, and the tensor."""
    for module in network.modules():
        for store in (module._parameters, module._buffers):
            for key, tensor in list(store.items()):
                if tensor is not None:
                    yield store, key, tensor


def byte_size(network: nn.Module) -> int:
    """Bytes of a network's parameters and buffers, tied ones once."""
    return sum({id(tensor): tensor.nbytes for _, _, tensor in _slots(network)}.values())


def choose(mode: str, device: torch.device, sizes: Callable[[], dict[str, int]]) -> str:
    """A memory mode for "auto": resident unless the device is a graphics card with too little free memory.

    Args:
        mode: "auto", or one of MODES, which stays.
        sizes: gives the bytes of every network.
    """
    if mode != "auto":
        return mode
    free = free_bytes(device)
    return LOW_VRAM if free is not None and free < sum(sizes().values()) + WORKING_SET else RESIDENT


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a graphics card; None for other devices."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, or came of that; torch and its libraries say it in several ways."""
    if error.__context__ is not None and is_out_of_memory(error.__context__):
        return True  # such as the end of a recording during which it ran out
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def shortage(stage: str, device: torch.device, largest: int) -> OutOfMemory:
    """The error for a run that is too large even in the lowest mode, with what would fit.

    Args:
        stage: the stage that failed.
        largest: bytes of the largest network that is brought as a whole.
    """
    there, way = f"The memory of the device {str(device)!r}", ""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        there, way = f"The graphics card ({_gb(total)}, {_gb(free)} of it free)", ", the device cpu"
    return OutOfMemory(
        f"{there} is too small for the stage {stage} even in {MODES[-1]} mode; about {_gb(largest + WORKING_SET)} "
        f"would fit: end other programs that use it, or take smaller weights such as gap3d-mini{way}."
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"

