"""Steps without the call that takes a whole layer, for tests that look at its operators."""

from __future__ import annotations

import pytest


def take_operators_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the layers of generations that begin from now on call their operators from Python."""
    monkeypatch.setattr("el_attention.decoder.layer.unsupported", lambda spec: "of this test")
