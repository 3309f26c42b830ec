"""The rules of the house: which room may import which, what stays lazy, what never appears."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
MOST_LINES = 400

# Rooms of gap3d_app and what each may import. Everything may import `BASICS`, which import each other only.
BASICS = {"errors", "values", "__version__"}
ALLOWED = {
    "kernels": set(),
    "nn": {"kernels"},
    "sparse": {"nn", "kernels"},
    "flow": {"nn", "sparse"},
    "models": {"nn", "sparse", "flow", "kernels"},
    "settings": set(),
    "output": {"settings"},
    "geometry": {"output", "kernels"},
    "render": {"geometry", "output", "settings"},
    "background": set(),
    "prompt": {"background"},
    "vocabulary": set(),
    "hub": set(),
    "sources": {"hub", "models"},
    "doctor": {"hub", "sources", "modes", "estimate"},
    "modes": set(),
    "memory": {"modes", "nn"},
    "asset": {"geometry", "render", "output"},
    "fast_flows": {"models"},
    "stages": {"models", "nn", "sparse", "flow", "geometry", "prompt", "settings", "vocabulary", "samplers"},
    "recipe": {"stages", "background"},
    "pipeline": {"models", "geometry", "asset", "hub", "prompt", "background", "settings", "stages", "recipe",
                 "sources", "memory", "modes", "fast_flows", "kernels", "progress"},
    "bench": {"pipeline", "settings", "hub", "prompt", "estimate"},
    "progress": set(),
    "samplers": {"flow", "settings"},
    "posed_views": {"geometry", "models", "sparse", "pipeline"},
    "full_size": {"models", "nn", "sparse", "flow", "geometry", "pipeline", "memory", "modes", "sources"},
    "estimate": {"settings"},
    "ui": {"pipeline", "asset", "output", "hub", "prompt", "background", "settings", "geometry", "render", "sources",
           "estimate", "modes", "fast_flows", "vocabulary"},
    "cli": {"pipeline", "asset", "output", "hub", "prompt", "settings", "bench", "full_size", "ui", "geometry",
            "sources", "doctor", "modes"},
    "__main__": {"cli"},
}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def python_files(*folders: str) -> list[Path]:
    found = [p for folder in folders for p in sorted((REPO / folder).rglob("*.py"))]
    return [p for p in found if "node_modules" not in p.parts]


EVERYTHING = [*python_files("gap3d_app", "train", "tests", "examples"), REPO / "app.py"]


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path, nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Absolute dotted names that import statements among `nodes` bring in, relative ones resolved."""
    package = path.relative_to(REPO).parent.parts
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "importlib.import_module", "__import__"):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Nodes that run when the module is imported: all but function bodies."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def all_imports(path: Path) -> set[str]:
    return set(imported(path, ast.walk(parsed(path))))


def room(name: str) -> str:
    """The room of a dotted name under gap3d_app, the package itself included."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


ROOMS = sorted({p.relative_to(REPO / "gap3d_app").parts[0] for p in python_files("gap3d_app")})


@pytest.mark.parametrize("name", ROOMS)
def test_rooms_import_downwards(name):
    own = name.removesuffix(".py")
    if own == "__init__":
        return
    folder = REPO / "gap3d_app" / name
    files = [folder] if folder.suffix else python_files(f"gap3d_app/{name}")
    allowed = {own} | BASICS | ALLOWED.get(own, set())
    assert own in ALLOWED or own in BASICS, f"gap3d_app/{name} is a new room: say in ALLOWED what it may import"
    for path in files:
        rooms = {room(x) for x in all_imports(path) if x.split(".")[0] == "gap3d_app"}
        assert rooms <= allowed, f"{path.relative_to(REPO)} imports {sorted(rooms - allowed)}"


def test_rooms_have_no_circles():
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        ready = {name for name, below in ALLOWED.items() if below <= done} - done
        assert ready, f"a circle among {sorted(set(ALLOWED) - done)}"
        done |= ready


def test_app_knows_neither_training_nor_tests():
    for path in [*python_files("gap3d_app"), REPO / "app.py"]:
        assert not {x.split(".")[0] for x in all_imports(path)} & {"train", "tests"}, path
    for path in python_files("train"):
        assert "tests" not in {x.split(".")[0] for x in all_imports(path)}, path


def test_gradio_stays_in_the_page():
    for path in python_files("gap3d_app", "train"):
        if (REPO / "gap3d_app" / "ui") not in path.parents:
            assert "gradio" not in {x.split(".")[0] for x in all_imports(path)}, path


def test_transformers_is_imported_late():
    for path in [*python_files("gap3d_app", "train"), REPO / "app.py"]:
        names = {x.split(".")[0] for x in imported(path, at_import(parsed(path)))}
        assert "transformers" not in names, f"{path.relative_to(REPO)} imports transformers when it is imported"


@pytest.mark.parametrize("folder", ["gap3d_app", "train", "tests", "examples"])
def test_nothing_unpickles(folder):
    for path in [p for p in EVERYTHING if p.is_relative_to(REPO / folder)]:
        tree = parsed(path)
        assert not {x.split(".")[0] for x in all_imports(path)} & PICKLES, path
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                assert _called(node) not in ("torch.load", "torch.save"), f"{path}:{node.lineno}"
                assert not any(
                    k.arg == "allow_pickle" and not (isinstance(k.value, ast.Constant) and k.value.value is False)
                    for k in node.keywords
                ), f"{path}:{node.lineno}"


def test_files_can_be_read_at_one_sitting():
    long = {str(p.relative_to(REPO)): n for p in EVERYTHING if (n := len(p.read_text().splitlines())) > MOST_LINES}
    assert not long


def _loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_importing_the_package_is_cheap():
    assert not _loaded_after("import gap3d_app") & {"torch", "numpy", "PIL", "gradio", "transformers"}


def test_examples_let_the_package_say_how_threads_wait():
    """OMP_WAIT_POLICY is read when torch loads; the package sets it, so it must come first."""
    for path in python_files("examples"):
        names = [x.split(".")[0] for node in parsed(path).body for x in imported(path, ast.walk(node))]
        first = next((x for x in names if x in ("gap3d_app", "torch", "train")), "gap3d_app")
        assert first == "gap3d_app", path


def test_the_pipeline_needs_neither_page_nor_transformers():
    loaded = _loaded_after("from gap3d_app import Gap3DPipeline")
    assert "torch" in loaded and not loaded & {"gradio", "transformers", "trimesh"}


def test_the_rules_catch_offenders():
    """The test's own reading of imports: relative, lazy and dynamic ones are seen."""
    path = REPO / "gap3d_app" / "nn" / "made_up.py"
    source = "from ..ui import page\nimport importlib\nclass A:\n    import gradio\n"
    source += "def f():\n    import transformers\n    importlib.import_module('train.loop')\n"
    tree = ast.parse(source)
    assert {"gap3d_app.ui.page", "gradio", "transformers", "train.loop"} <= set(imported(path, ast.walk(tree)))
    early = set(imported(path, at_import(tree)))
    assert "gradio" in early and "transformers" not in early
