"""The runs that the tests of stages share."""

import pytest
import torch

from tests.train.toys import Runs
from train.data import pack


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Runs:
    data = tmp_path_factory.mktemp("train_data")
    sizes = ["--count", "2", "--edits", "2", "--views", "2", "--workers", "1", "--seed", "2"]
    assert pack.main(["--out", str(data), *sizes]) == 0
    return Runs(data, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def on_the_processor(monkeypatch) -> None:
    """Stages are built on the CPU here, and on a machine with a GPU the loop would move them there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
