"""The command line: generate, app, bench, weights, doctor.

A mistake in the request ends with one sentence on standard error and exit code 2, before anything heavy is
imported where that is possible; Ctrl-C ends with 130, but the page, which it is the way to stop, with 0.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gap3d_app import __version__
from gap3d_app.errors import Gap3DError, InputError
from gap3d_app.modes import LOW_VRAM
from gap3d_app.output import NEEDED_BYTES, check_output
from gap3d_app.settings import Settings, Spec

DEFAULT_WEIGHTS = "gap3d-mini"
INTERRUPTED = 130
"""Exit code after Ctrl-C."""

LOW_VRAM_HELP = "keep networks off the graphics card but for their stage (default: where they do not fit together)"
WEIGHTS_HELP = "weights: a name, a folder, or several with commas to put together (%(default)s)"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except Gap3DError as error:
        print(f"gap3d: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gap3d: stopped.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of --json has gone
        sys.stderr.close()
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gap3d_app", description="Text, an image, or both, to a 3D asset.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    generate = commands.add_parser("generate", help="make an asset and write its file")
    generate.add_argument("prompt", nargs="?", help="what to make, in words")
    generate.add_argument(
        "-o", "--output", required=True, metavar="FILE",
        help="file to write: .glb, .ply, .npz (radiance field), .obj, .stl, .mp4, .gif or .json",
    )
    generate.add_argument(
        "--image", metavar="FILE", action="append",
        help="picture to work from (PNG, JPEG, WebP); again for more sides of the same object",
    )
    generate.add_argument(
        "--multi-image", default="stochastic", metavar="MODE",
        help="with several pictures: stochastic takes one a step, multidiffusion the mean of all (%(default)s)",
    )
    generate.add_argument(
        "--exact-preprocessing", action="store_true", help="cut pictures out exactly as TRELLIS does"
    )
    generate.add_argument("--mesh", metavar="FILE", help="keep the shape of this mesh: new surface and colours only")
    generate.add_argument("--ply", metavar="FILE", help="write the Gaussians too")
    generate.add_argument("--mp4", metavar="FILE", help="write a turntable too")
    generate.add_argument("--json", action="store_true", help="print recipe, seconds and file facts")
    generate.add_argument("--quiet", action="store_true", help="no progress bar")
    _add_common(generate)
    generate.set_defaults(run=_generate)

    app = commands.add_parser("app", help="start the page")
    app.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    app.add_argument("--port", type=int, default=7860, help="port to listen on (%(default)s)")
    app.add_argument("--weights", default=DEFAULT_WEIGHTS, metavar="NAMES_OR_DIRS", help=WEIGHTS_HELP)
    app.add_argument("--low-vram", action="store_true", help=LOW_VRAM_HELP)
    app.add_argument(
        "--no-compile", action="store_true",
        help="do not compile full-size networks for the graphics card: no wait at the first run, longer runs",
    )
    app.set_defaults(run=_app)

    bench = commands.add_parser("bench", help="measure time and memory of text to GLB")
    bench.add_argument("prompt", nargs="?", default="a small red toy airplane", help="what to make (%(default)s)")
    bench.add_argument("--runs", type=int, default=3, help="warm runs; the median counts (%(default)s)")
    bench.add_argument("--json", action="store_true", help="print the figures as JSON")
    bench.add_argument(
        "--full-size", nargs="?", const="all", metavar="PARTS",
        help="instead: the public networks' full sizes with random weights on a CUDA device, against the way that the "
        "released code takes; all, or some of grid,structure,slat,decoders,text-to-glb",
    )
    _add_common(bench)
    bench.set_defaults(run=_bench)

    weights = commands.add_parser("weights", help="list, download or check public weights")
    actions = weights.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="what there is, its size and licence, and whether it is here")
    listing.add_argument("--json", action="store_true", help="print the list as JSON")
    pull = actions.add_parser("pull", help="download, with what it needs; goes on where it stopped")
    pull.add_argument("names", nargs="+", metavar="NAME", help="names from the list")
    pull.add_argument("--alone", action="store_true", help="without what the named weights need")
    pull.add_argument("--offline", action="store_true", help="never use the network (as HF_HUB_OFFLINE=1)")
    pull.add_argument("--quiet", action="store_true", help="no progress bars")
    verify = actions.add_parser("verify", help="read every file and compare its checksum")
    verify.add_argument("names", nargs="*", metavar="NAME", help="names from the list; all that are here if none")
    for action in ("list", "pull", "verify"):
        actions.choices[action].set_defaults(run=_weights, action=action)

    doctor = commands.add_parser("doctor", help="what this machine can run, and why not")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS, metavar="NAMES_OR_DIRS", help=WEIGHTS_HELP)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (%(default)s)")
    parser.add_argument("--low-vram", action="store_true", help=LOW_VRAM_HELP)
    group = parser.add_argument_group("settings", "values that are not given come from the preset")
    for spec in Settings.specs().values():
        if spec.name != "formats":  # follows from the files asked for
            words = f"{spec.help} Allowed: {spec.allowed}.".replace("%", "%%")
            group.add_argument(spec.flag, dest=f"set_{spec.name}", metavar=spec.kind.upper(), help=words)


def _given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Settings whose flags were given, as numbers where numbers are meant; checked by range already."""
    given = {}
    for name, spec in Settings.specs().items():
        text = getattr(options, f"set_{name}", None)
        if text is not None:
            given[name] = spec.check(_value(spec, text))
    return given


def _value(spec: Spec, text: str) -> Any:
    if spec.kind == "choice" and isinstance(spec.choices[0], str):
        return text
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text  # refused by the check, which names it


def _generate(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    paths = [options.output, *filter(None, (options.ply, options.mp4))]
    for path, ending in ((options.ply, ".ply"), (options.mp4, ".mp4")):
        if path and Path(path).suffix.lower() != ending:
            raise InputError(f"The file {path!r} must end in {ending}.")
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise InputError("Two results would have the same file name; give different names.")
    # Everything that can be refused is refused before torch is imported and the models are read.
    files = [check_output(path, NEEDED_BYTES) for path in paths]
    given = _given_settings(options)
    given["formats"] = sorted({file.suffix.lower()[1:] for file in files})
    from gap3d_app.prompt import Prompt

    prompt = Prompt.read(
        options.prompt, options.image, multi_image=options.multi_image,
        exact_preprocessing=options.exact_preprocessing,
    )  # fmt: skip
    early = [cut.warning for cut in prompt.pictures if cut.warning]
    _warn(early)
    if options.mesh:
        with _no_garbage():
            from gap3d_app.geometry.mesh_reader import read_mesh
        prompt = replace(prompt, mesh=read_mesh(options.mesh))
    pipeline = _load(options)
    settings = pipeline.settings(prompt, **given)
    loaded = time.perf_counter()
    with _meanwhile(_import_mesh_tools), _progress(settings, len(files), options.quiet) as advance:
        for event in pipeline.stages(prompt, settings=settings):
            advance(event.stage, event.step, event.of)
        asset = event.preview
        written = time.perf_counter()
        for number, file in enumerate(files, 1):
            asset.save(file)
            advance("write", number, len(files))
    end = time.perf_counter()
    _warn(warning for warning in asset.warnings if warning not in early)
    if options.json:
        seconds = {"load": loaded - start, **asset.seconds, "write": end - written, "total": end - start}
        report = {
            "recipe": asset.recipe,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "files": [_file_facts(file) for file in files],
            "warnings": asset.warnings,
        }
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print(", ".join(map(str, files)))
    return 0


def _warn(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        print(f"gap3d: {sentence}", file=sys.stderr)


@contextmanager
def _meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """`work` runs on the second core, and ends before the block does, however it is left.

    Python that goes down under a thread which loads a library may abort or never end.
    """
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _import_mesh_tools() -> None:
    """About a second of a cold start, which the networks can hide."""
    from gap3d_app.geometry import flexicubes, glb  # noqa: F401


def _load(options: argparse.Namespace, compile: bool = False) -> Any:
    if options.device not in ("auto", "cpu", "cuda"):
        raise InputError(f"The device is {options.device!r}; it must be auto, cpu or cuda.")
    _require_weights(options)
    with _no_garbage():
        import torch

        from gap3d_app.pipeline import Gap3DPipeline
    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("There is no CUDA device here; use --device cpu.")
    memory = LOW_VRAM if options.low_vram else "auto"
    return Gap3DPipeline.from_pretrained(options.weights, device=options.device, memory=memory, compile=compile)


def _require_weights(options: argparse.Namespace) -> None:
    """A wrong name is known before torch is."""
    from gap3d_app.hub import resolve
    from gap3d_app.sources.names import is_assembled, locate, split

    names = split(options.weights)
    if is_assembled(names):
        for name in [names] if isinstance(names, str) else names:
            locate(name)
    else:
        resolve(names)


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Imports inside leave no garbage, so none is looked for, not among them later on nor at exit.

    Of 170,000 objects that stay for good: 0.3 s of a cold start.
    """
    if "torch" in sys.modules or not gc.isenabled():  # a caller's own objects may well become garbage
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _file_facts(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"path": str(path), "bytes": path.stat().st_size}
    if path.suffix.lower() == ".glb":
        from gap3d_app.geometry.facts import glb_facts

        facts.update(glb_facts(path))
    return facts


@contextmanager
def _progress(settings: Settings, files: int, quiet: bool) -> Iterator[Any]:
    """A bar over all steps on standard error; gives a function of (stage, step, of)."""
    from tqdm import tqdm

    of = {"prompt": 1, "grid": settings.grid_steps, "structure": settings.structure_steps,
          "slat": settings.slat_steps, "decode": 2, "mesh": 1, "asset": 1, "write": files}
    form = "{desc:9} {percentage:3.0f}% |{bar}| {elapsed}"
    with tqdm(total=sum(of.values()), file=sys.stderr, disable=quiet, bar_format=form, leave=False) as bar:
        def advance(stage: str, step: int, steps: int) -> None:
            names = list(of)
            before = sum(of[name] for name in names[: names.index(stage)])
            # A stage may take fewer steps than planned (a picture alone needs one for its grid).
            bar.set_description(stage, refresh=False)
            bar.n = before + round(of[stage] * step / steps)
            bar.refresh()

        yield advance


def _app(options: argparse.Namespace) -> int:
    if not 1 <= options.port <= 65535:
        raise InputError(f"The port is {options.port}; it must be from 1 to 65535.")
    _require_weights(options)
    from gap3d_app.ui import launch

    launch(
        host=options.host, port=options.port, weights=options.weights, low_vram=options.low_vram,
        compile=not options.no_compile,
    )  # fmt: skip
    return 0


def _bench(options: argparse.Namespace) -> int:
    if not 1 <= options.runs <= 100:
        raise InputError(f"The number of runs is {options.runs}; it must be from 1 to 100.")
    if options.full_size:
        return _bench_full_size(options)
    from gap3d_app.bench import bench, table

    pipeline = _load(options, compile=True)  # as the page does: warm runs are what counts
    given, more = _given_settings(options), ["--low-vram"] if options.low_vram else []
    figures = bench(pipeline, options.prompt, given, options.runs, options.weights, more)
    print(json.dumps(figures, indent=2) if options.json else table(figures))
    return 0


def _bench_full_size(options: argparse.Namespace) -> int:
    import torch

    from gap3d_app.full_size import end_to_end
    from gap3d_app.full_size.bench import PARTS, bench, table

    every = (*PARTS, end_to_end.PART)
    parts = every if options.full_size == "all" else tuple(options.full_size.split(","))
    say = functools.partial(print, file=sys.stderr, flush=True)
    figures = bench(options.runs, tuple(part for part in parts if part != end_to_end.PART), say=say)
    if end_to_end.PART in parts:
        rows = end_to_end.measure_end_to_end(torch.device("cuda"), options.runs, say=say)
        figures["text_to_glb"] = end_to_end.as_dicts(rows)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        print(table(figures) + (end_to_end.table(figures["text_to_glb"]) if "text_to_glb" in figures else ""))
    return 0


def _weights(options: argparse.Namespace) -> int:
    from gap3d_app.sources import commands

    if options.action == "list":
        rows = commands.listing()
        print(json.dumps(rows, indent=2) if options.json else commands.table(rows))
    elif options.action == "pull":
        if options.offline:
            os.environ["HF_HUB_OFFLINE"] = "1"
        say = functools.partial(print, flush=True)
        commands.pull_all(options.names, options.alone, say, progress=not options.quiet)
    else:
        commands.verify_all(options.names, print)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from gap3d_app.doctor import examine, report

    found = examine()
    print(json.dumps(found, indent=2) if options.json else report(found))
    return 0
