"""Errors whose message is written for the person who made the request.

Every message is one sentence that names the input, the limit and the way out; the CLI prints it with
exit code 2 and the page shows it as it is.
"""


class Gap3DError(Exception):
    """Base of all errors caused by input, weights, output targets or an unlucky sample."""


class InputError(Gap3DError):
    """A prompt, picture or setting that cannot be used."""


class WeightsError(Gap3DError):
    """A weight file that is missing, damaged or of another kind."""


class OutputError(Gap3DError):
    """A result that cannot be written where it was asked for."""


class GenerationError(Gap3DError):
    """A sample that came out empty or not finite."""


class OutOfMemory(Gap3DError):
    """A run that the device's memory is too small for."""


class Cancelled(Gap3DError):
    """The person stopped the run."""
