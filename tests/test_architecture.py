"""Who may import whom, what the top-level import costs, and what a recipe must be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mtlora_jax"
ROOT_MODULES = {"config", "schema", "errors", "version"}
MAY_IMPORT = {
    "adapters": set(),
    "engine": {"config", "schema", "errors", "files", "input", "images", "weights"},
    "vision": {"adapters", "engine", "config", "errors", "files", "input", "images", "weights"},
    "text": {"adapters", "engine", "config", "errors", "files", "input", "language", "weights"},
    "images": {"errors"},
    "config": {"schema", "errors"},
    "domains": {"config", "engine"},
}
DOORS = {"bench", "convert", "data", "generate", "predict", "report"}
HEAVY = ("tensorflow", "torch", "tensorflow_datasets")


def ours(path: Path) -> set[str]:
    """The parts of the package that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("mtlora_jax.")}
    return found


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_imports_point_one_way(name):
    files = [path for path in PACKAGE.rglob("*.py") if part(path) == name]
    assert files
    for path in files:
        assert ours(path) <= MAY_IMPORT[name] | {name}, path


def test_nothing_imports_a_door():
    for path in PACKAGE.rglob("*.py"):
        assert not ours(path) & (DOORS - {part(path)}), path


def test_the_top_level_import_is_light():
    code = f"""
import sys
import mtlora_jax
assert not set({HEAVY}) & set(sys.modules), sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
