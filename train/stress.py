"""How much more the parts of a target count in a loss that an edit changes.

Source and target of an edit differ little: the grids of the image encoder have a mean cosine of 0.98. Weighed alike,
what is asked for drowns in what stays. Prompts that change nothing keep the weight of one everywhere.
"""

from torch import Tensor


def stress(apart: Tensor, whole: float, most: float) -> Tensor:
    """Factors 1..1 + most of a loss, of the shape of `apart`.

    Args:
        apart: distances between source and target, not negative.
        whole: distance from which on a value counts as changed altogether.
        most: what is added to the weight of such values.
    """
    return 1 + most * (apart / whole).clamp(max=1)
