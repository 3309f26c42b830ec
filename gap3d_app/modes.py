"""The memory modes by name, and the sizes that decide between them; no torch, so that `doctor` works without it."""

RESIDENT, LOW_VRAM = "resident", "low-vram"
MODES = (RESIDENT, LOW_VRAM)
"""From the fastest to the smallest; `memory` says what each does."""

WORKING_SET = 3_000_000_000
"""Bytes that a full-size run takes on a graphics card beside its networks (an estimate)."""

LARGEST_WHOLE = 3_000_000_000
"""Networks of more bytes come block by block in low-vram mode."""
