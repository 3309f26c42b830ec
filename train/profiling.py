"""What a training step costs: `loop.profile=10` measures ten steps of any stage and goes on.

Two kinds of steps follow a warm-up: plain ones, timed as a whole, and profiled ones, which tell what the device did. A
stage whose plain step takes longer than the device's work waits for the processor: fewer launches help, faster kernels
do not.
"""

import time
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

WARM_UP = 30
"""Steps before the first measured one: compilations, and caches that fill."""
ROWS = 30


class StepProfile:
    """Measures `steps` plain and as many profiled steps, from the `WARM_UP`th on, and writes a report.

    Args:
        path: of the report, plain text.
        steps: 0 measures nothing.
        device: what trains.
    """

    def __init__(self, path: Path, steps: int, device: torch.device):
        self.path, self.steps, self.device, self.count = path, steps, device, 0
        cuda = device.type == "cuda"
        self.profiler = profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU])
        self.cuda, self.plain, self.mark = cuda, 0.0, 0.0

    def step_ended(self) -> None:
        """To be called after every step."""
        self.count += 1
        if not self.steps or not WARM_UP <= self.count <= WARM_UP + 2 * self.steps:
            return
        if self.count == WARM_UP:
            self.mark = self._now()
        elif self.count == WARM_UP + self.steps:
            self.plain = (self._now() - self.mark) / self.steps
            self.profiler.start()
        elif self.count == WARM_UP + 2 * self.steps:
            self._now()
            self.profiler.stop()
            self.path.write_text(self._report())
            print(f"{self.path}: {1e3 * self.plain:.1f} ms a step", flush=True)

    def _now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _report(self) -> str:
        # calls of the driver are listed beside what it launched
        kind = DeviceType.CUDA if self.cuda else DeviceType.CPU
        rows = [r for r in self.profiler.key_averages() if r.device_type == kind and not r.is_user_annotation]
        busy = [r.self_device_time_total if self.cuda else r.self_cpu_time_total for r in rows]
        name, calls = ("kernels", "launches") if self.cuda else ("operations", "calls")
        lines = [
            f"{1e3 * self.plain:.2f} ms a step, mean of {self.steps}, {self.count - 2 * self.steps} steps before",
            f"{sum(busy) / 1e3 / self.steps:.2f} ms of {name}, {sum(r.count for r in rows) / self.steps:.0f} {calls}",
        ]
        if self.cuda:
            lines.append(f"{torch.cuda.max_memory_allocated(self.device) / 2**30:.2f} GiB of tensors at most")
        for time_spent, row in sorted(zip(busy, rows, strict=True), key=lambda pair: -pair[0])[:ROWS]:
            lines.append(f"{time_spent / 1e3 / self.steps:9.3f} ms {row.count / self.steps:7.1f} x {row.key[:110]}")
        return "\n".join(lines) + "\n"
