"""A stand-in for the package `spaces` of Hugging Face Spaces with ZeroGPU.

As there, a decorated generator runs in a forked process, arguments and results are pickled, the process ends with
the call, and closing the generator ends the process. Every call is written as a line of JSON to the file named by
STAND_IN_LOG.
"""

import functools
import inspect
import json
import multiprocessing
import os

FORK = multiprocessing.get_context("fork")


def GPU(function=None, duration=60, **_):
    """Decorate a generator function; `duration` is seconds, or a function of the same arguments that gives them."""
    if function is None:
        return functools.partial(GPU, duration=duration)
    assert inspect.isgeneratorfunction(function)

    @functools.wraps(function)
    def call(*arguments):
        seconds = duration(*arguments) if callable(duration) else duration
        ours, theirs = FORK.Pipe()
        process = FORK.Process(target=_serve, args=(function, ours, theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            ours.send(arguments)  # pickled, as everything that comes back
            while True:
                kind, value = ours.recv()
                if kind == "error":
                    raise RuntimeError(value)
                if kind == "end":
                    break
                yield value
        except EOFError:
            raise RuntimeError("GPU task aborted") from None
        finally:
            process.terminate()
            process.join()
            _write({"seconds": seconds, "parent": os.getpid(), "child": process.pid})

    return call


def _serve(function, other, pipe):
    other.close()
    arguments = pipe.recv()
    try:
        for value in function(*arguments):
            pipe.send(("value", value))
        pipe.send(("end", None))
    except Exception as error:
        pipe.send(("error", type(error).__name__))  # the real one keeps no more than the name of the class


def _write(line: dict) -> None:
    with open(os.environ["STAND_IN_LOG"], "a") as file:
        file.write(json.dumps(line) + "\n")
