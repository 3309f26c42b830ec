"""Compiled blocks without a compiler."""

import pytest

from gap3d_app.models import acceleration


@pytest.fixture
def compilations(monkeypatch) -> list[str]:
    """Names of the classes whose blocks were called as compiled ones; nothing is compiled."""
    calls = []

    def noted(advance, any_length=None):
        def call(block, *rest):
            calls.append(type(block).__name__)
            return advance(block, *rest)

        return call

    monkeypatch.setattr(acceleration, "compiled", noted)
    return calls
