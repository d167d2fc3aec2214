"""The shape of the tree: who may import whom, what never appears in src, what belongs together."""

from __future__ import annotations

import ast
import importlib
import os
import re
import resource
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "vidseg"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A part imports parts of its own floor or below. The first name after `vidseg.` is the part.
FLOORS = [
    {
        "array_files",
        "atomic",
        "classes",
        "documents",
        "hub",
        "inside",
        "interrupts",
        "lock",
        "precision",
        "printable",
        "progress",
        "shortage",
        "sizes",
        "suggest",
        "timing",
        "training_needs",
        "values",
    },
    {"layers", "card", "card_file", "weights", "context", "video"},
    {"segmenter", "backbones", "flow", "losses", "metrics"},
    {"adapters", "data", "methods"},
    {"inference"},
    {"evaluation"},
    {"comparison"},
    {"report"},
    {"training", "benchmark"},
    {"demo"},
    {"cli", "__main__"},
]
# These work for every segmenter, so none of them may name a method.
WITHOUT_METHODS = {
    "layers",
    "card",
    "weights",
    "context",
    "video",
    "segmenter",
    "adapters",
    "backbones",
    "flow",
    "losses",
    "metrics",
}
WITHOUT_METHODS |= {"data", "inference", "evaluation", "comparison", "report", "benchmark"}

# These import the standard library alone.
PLAIN = {"interrupts", "suggest", "printable", "shortage", "sizes"}

FORBIDDEN_NAMES = {"utils", "util", "common", "core", "misc", "helpers", "helper"}
MAX_LINES = 450


def name_of(path: Path) -> str:
    """`vidseg.methods.tmanet` for src/vidseg/methods/tmanet.py."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def is_for_types_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(path: Path, *, top_only: bool = False) -> Iterator[tuple[str, int]]:
    """The modules that a file imports when it runs, with the line of each."""
    hidden = {
        id(inner)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.stmt) and is_for_types_only(node)
        for inner in ast.walk(node)
    }
    nodes = tree_of(path).body if top_only else ast.walk(tree_of(path))
    for node in nodes:
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} import by the full name"
            # `from vidseg import data` imports vidseg.data; elsewhere the module is enough.
            for alias in node.names if node.module == "vidseg" else [None]:
                suffix = f".{alias.name}" if alias else ""
                yield f"{node.module}{suffix}", node.lineno


def part_of(module: str) -> str:
    """`methods` for vidseg.methods.tmanet; empty for vidseg itself and for other packages."""
    names = module.split(".")
    return names[1] if names[0] == "vidseg" and len(names) > 1 else ""


def floor_of(part: str) -> int | None:
    return next((floor for floor, parts in enumerate(FLOORS) if part in parts), None)


@pytest.fixture(params=MODULES, ids=name_of)
def module_path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_part_has_a_floor() -> None:
    parts = {part_of(name_of(path)) for path in MODULES} - {""}
    assert parts <= set().union(*FLOORS), "a new part: say in FLOORS what it may import"


def test_imports_point_down() -> None:
    wrong = []
    for path in MODULES:
        own = part_of(name_of(path))
        if not own:
            continue  # vidseg/__init__.py gathers the public names of every floor
        for module, line in imports_of(path):
            floor = floor_of(part_of(module))
            if floor is not None and floor > (floor_of(own) or 0):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_by_way_of_others() -> None:
    names = {name_of(path) for path in MODULES}
    imported: dict[str, set[str]] = {name: set() for name in names}
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and node.module in names:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    imported[name_of(path)].add(inner if inner in names else node.module)
    for path in MODULES:  # imports for types alone run in no circle
        for node in ast.walk(tree_of(path)):
            if is_for_types_only(node):
                hidden = {
                    inner.module for inner in ast.walk(node) if isinstance(inner, ast.ImportFrom)
                }
                run = {module for module, _ in imports_of(path)}
                imported[name_of(path)] -= hidden - run
    while leaves := {name for name, others in imported.items() if not others & imported.keys()}:
        imported = {name: others for name, others in imported.items() if name not in leaves}
    assert not imported, f"these import each other: {sorted(imported)}"


def test_parts_that_serve_every_method_name_none() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in MODULES
        if part_of(name_of(path)) in WITHOUT_METHODS
        for module, line in imports_of(path)
        if part_of(module) == "methods"
    ]
    assert not wrong, "\n".join(wrong)


# A method imports another only where its paper builds on it; these two serve several methods.
BUILDS_ON = {("cffmpp", "cffm"), ("tdnet", "pspnet"), ("tdnet", "tdnet_layout")}
SERVE_METHODS = {"method", "queries", "query_checkpoints", "staged"}


def test_methods_import_each_other_only_where_a_paper_builds_on_another() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in (PACKAGE / "methods").glob("*.py")
        if path.name != "__init__.py"
        for module, line in imports_of(path)
        if part_of(module) == "methods"
        and module.split(".")[2] not in SERVE_METHODS
        and (path.stem, module.split(".")[2]) not in BUILDS_ON
    ]
    assert not wrong, "what two methods share belongs in layers/:\n" + "\n".join(wrong)


def test_torchvision_stays_in_the_extras() -> None:
    allowed = {"vidseg.flow.raft"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in MODULES
        if name_of(path) not in allowed
        for module, line in imports_of(path)
        if module.split(".")[0] in {"torchvision", "timm", "transformers"}
    ]
    assert not wrong, wrong


# Distributions whose module has another name.
IMPORTED_AS = {"opencv-python-headless": "cv2", "pillow": "PIL", "PyYAML": "yaml"}


def test_dependencies_are_what_the_package_imports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def modules(requirements: list[str]) -> set[str]:
        names = [re.split(r"[<>=\[]", text)[0] for text in requirements]
        return {IMPORTED_AS.get(name, name) for name in names}

    imported = {module.split(".")[0] for path in MODULES for module, _ in imports_of(path)}
    imported -= {*sys.stdlib_module_names, "vidseg"}
    extras = project["optional-dependencies"]
    optional = modules([text for name in extras if name != "dev" for text in extras[name]])
    # accelerate imports tensorboard where a run writes its logs for it.
    assert imported - optional == modules(project["dependencies"]) - {"tensorboard"}


def test_commands_import_nothing_heavy_at_the_top() -> None:
    light = {*sys.stdlib_module_names, "typer", "rich"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in (PACKAGE / "cli").glob("*.py")
        for module, line in imports_of(path, top_only=True)
        if module.split(".")[0] not in light and part_of(module) not in {"cli", *PLAIN}
    ]
    assert not wrong, "import it inside the command:\n" + "\n".join(wrong)


def test_nothing_prints_exits_or_insists_on_cuda(module_path: Path) -> None:
    for node in ast.walk(tree_of(module_path)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in {"print", "exit", "quit", "sys.exit", "os._exit"}, (
            f"{module_path}:{node.lineno} calls {called}"
        )
        assert not called.endswith(".cuda"), f"{module_path}:{node.lineno}: use .to(device)"


def test_public_names_have_docstrings(module_path: Path) -> None:
    def missing(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            if node.name.startswith("_"):
                continue
            if ast.get_docstring(node) is None:
                yield f"{prefix}{node.name} (line {node.lineno})"
            if isinstance(node, ast.ClassDef):
                yield from missing(node.body, f"{prefix}{node.name}.")

    tree = tree_of(module_path)
    assert ast.get_docstring(tree) is not None, f"{module_path} does not say what it is for"
    assert not list(missing(tree.body, ""))


def test_files_are_short_and_named_for_what_they_hold(module_path: Path) -> None:
    lines = len(module_path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{module_path} has {lines} lines; look for two things in it"
    assert not FORBIDDEN_NAMES & set(name_of(module_path).split("."))


def test_methods_docs_and_recipes_agree() -> None:
    from vidseg.methods import METHODS, OFFICIAL, find_method

    by_class = {method: family for family, method in METHODS.items()}
    pages = {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")}
    # A paper may be a way to train and no architecture; its checkpoints load all the same.
    assert pages == {*METHODS, *OFFICIAL}, "one page in docs/methods for each paper"

    recipes = {path.stem: path.read_text() for path in (PACKAGE / "recipes").glob("*.yaml")}
    models = {name: _model_of(yaml.safe_load(text)) for name, text in recipes.items()}
    families = {by_class[find_method(model)[0]] for model in models.values()}
    assert set(METHODS) == families, "one recipe or more for each entry of METHODS"


def _model_of(recipe: dict) -> str:
    model = recipe["model"]
    return model if isinstance(model, str) else model["name"]


def test_public_names_are_few_and_exist() -> None:
    import vidseg

    assert len(vidseg.__all__) <= 20
    for name in vidseg.__all__:
        assert getattr(vidseg, name) is not None


HEAVY = (
    "cv2 av PIL pydantic yaml accelerate matplotlib rich typer click tensorboard huggingface_hub"
)
HEAVY += " safetensors scipy sklearn torchvision timm transformers"

WITH_TORCH_ALONE = """
import importlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is not installed here")

sys.meta_path.insert(0, Refuse())
import vidseg
for part in ("methods", "layers", "backbones", "losses", "metrics"):
    package = importlib.import_module("vidseg." + part)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
import torch
from vidseg.segmenter import VideoSegmenter
for family in vidseg.METHODS:
    model = vidseg.create(family + "_tiny", num_classes=3).eval()
    frames = torch.zeros(1, 2, 3, 32, 32)
    segmentation, memory = model(frames, context=model.summarize(frames))
    assert segmentation.labels().shape == (1, 2, 32, 32)
"""


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_models_losses_and_metrics_need_torch_and_numpy_alone() -> None:
    result = run_python("-c", WITH_TORCH_ALONE.format(blocked=set(HEAVY.split())))
    assert result.returncode == 0, result.stderr


def test_help_is_fast_and_does_not_import_torch() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run_python("-X", "importtime", "-m", "vidseg.cli.main", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    imported = set(re.findall(r"\|\s+(\w+)$", result.stderr, flags=re.MULTILINE))
    assert "typer" in imported
    assert not imported & {"torch", "numpy", "cv2", "av", "pydantic", "matplotlib", "accelerate"}
    # Processor time: other work on the machine is not the command's fault. Usually 0.4 s.
    assert after.ru_utime - before.ru_utime < 2


def test_every_command_has_a_module() -> None:
    from vidseg.cli.main import COMMANDS, load_command

    for name, module in COMMANDS.items():
        importlib.import_module(module)
        assert load_command(name).name == name
