"""The memory modes by name, the sizes that decide between them, and how many runs a stage takes at once in each.

No torch, so that `doctor` works without it.
"""

RESIDENT, LOW_VRAM = "resident", "low-vram"
MODES = (RESIDENT, LOW_VRAM)
"""From the fastest to the smallest; `memory` says what each does."""

WORKING_SET = 3_000_000_000
"""Bytes that a full-size run takes on a graphics card beside its networks (an estimate)."""

LARGEST_WHOLE = 3_000_000_000
"""Networks of more bytes come block by block in low-vram mode."""

BATCHES = {"cuda": {"structure": 100, "slat": 20, "mesh": 10}}
SMALL_BATCHES = {"structure": 8, "slat": 2, "mesh": 1}
"""Runs that the networks take at once: by device where all are resident, and elsewhere."""

BATCH_OF = dict(prompt="structure", grid="structure", structure="structure", slat="slat", decode="mesh", mesh="mesh",
                asset="mesh")
"""Which of these numbers holds for a stage."""

LOWERED = (
    "Memory ran out at the stage {stage}, so the run went on in {mode} mode, which takes longer; it stays in this mode."
)
