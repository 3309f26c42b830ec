"""Branches side by side: results in order, errors, and what belongs to a thread."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gap3d_app.nn import parallel
from gap3d_app.nn.parallel import Beside, run_branches, side_by_side

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def who() -> tuple[str, int, bool, bool]:
    thread = threading.current_thread().name
    return thread, torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()


@torch.no_grad()
def test_every_branch_has_a_thread_of_its_own(two_threads) -> None:
    meeting = threading.Barrier(2)  # raises if the branches came one after the other

    def branch(number: int):
        meeting.wait(timeout=60)
        return number, who()

    (a, (first, *own)), (b, (second, *other)) = run_branches([lambda: branch(1), lambda: branch(2)], CPU)
    assert (a, b) == (1, 2) and first != second
    assert own == other == [1, False, False]
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert torch.get_num_threads() == later[0] == 2  # neither this thread nor new ones lose theirs


def test_modes_go_along(two_threads) -> None:
    with torch.inference_mode():
        assert [mode for *_, mode in run_branches([who, who], CPU)] == [True, True]
    names = {name for name, *_ in run_branches([who, who], CPU)}  # gradients wanted: in the caller's thread
    assert names == {threading.current_thread().name}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert not side_by_side(CPU)


@torch.no_grad()
def test_an_error_waits_for_the_others_and_gives_the_threads_back(two_threads) -> None:
    done = threading.Event()

    def bad():
        raise ValueError("bad branch")

    for branches in ([bad, done.set], [done.set, bad]):
        done.clear()
        with pytest.raises(ValueError, match="bad branch"):
            run_branches(branches, CPU)
        assert done.is_set() and torch.get_num_threads() == 2
    assert run_branches([lambda: 1, lambda: 2, lambda: 3], CPU) == [1, 2, 3]


@torch.no_grad()
def test_an_interrupt_while_workers_begin_leaves_none_waiting(two_threads, monkeypatch) -> None:
    class Interrupted(ThreadPoolExecutor):
        def submit(self, *task):
            if self._threads:
                raise KeyboardInterrupt
            return super().submit(*task)

    before = set(threading.enumerate())
    parallel._pool.cache_clear()
    monkeypatch.setattr(parallel, "ThreadPoolExecutor", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_branches([who, who], CPU)
    begun = set(threading.enumerate()) - before
    for thread in begun:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in begun) and torch.get_num_threads() == 2


@torch.no_grad()
def test_one_thread_runs_one_after_the_other() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert not side_by_side(CPU)
        assert {name for name, *_ in run_branches([who, who], CPU)} == {threading.current_thread().name}
    finally:
        torch.set_num_threads(before)


def test_beside_is_nothing_on_a_processor() -> None:
    with Beside(CPU):
        assert torch.arange(4).sum() == 6
    with pytest.raises(ZeroDivisionError), Beside(CPU):
        _ = 1 // 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_beside_does_not_wait_for_the_queue() -> None:
    x = torch.arange(1000, device="cuda")
    with Beside(x.device):
        (x * 2).sum().item()  # the side stream exists, the memory and the kernels are there
    for _ in range(2):  # the second time with memory of the first
        beside, done = Beside(x.device), torch.cuda.Event()
        torch.cuda._sleep(1 << 30)  # about half a second
        done.record()
        with beside:
            twice = x * 2
            assert twice.sum().item() == 999_000
            assert not done.query()
        assert (twice + x).sum().item() == 1_498_500
        assert done.query()
