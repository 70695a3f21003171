"""Who may import whom, what the top-level import costs, how large files are, and which words are not used."""

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mtlora_jax"
FLOOR = {"config", "devices", "schema", "errors", "files", "listing", "recipes", "storage", "mirrors"}
SHARED = FLOOR | {"adapters", "weights", "images", "input", "engine"}
MAY_IMPORT = {
    "errors": set(),
    "devices": set(),
    "listing": set(),
    "files": {"errors"},
    "recipes": {"errors"},
    "storage": {"errors", "files"},
    "mirrors": {"errors", "storage"},
    "schema": {"errors", "recipes"},
    "config": {"schema", "errors"},
    "adapters": set(),
    "weights": {"errors", "files", "listing", "storage"},
    "images": {"errors", "files"},
    "input": FLOOR,
    "language": FLOOR | {"input", "adapters"},
    # The table of domains names them as text, and imports the one that a config belongs to.
    "engine": FLOOR | {"input", "weights", "images", "domains"},
    "domains": {"config", "errors", "engine"},
    "vision": SHARED,
    "text": SHARED | {"language"},
    # Frozen backbones, lent to domains that read pictures and do not train them.
    "encoders": FLOOR | {"weights", "images", "vision"},
    "image_text": SHARED | {"language", "encoders"},
}
DOMAINS = {"vision", "text", "image_text"}
COMMANDS = {"bench", "data", "plan", "generate", "predict", "report"}
HEAVY = ("jax", "tensorflow", "torch", "tensorflow_datasets")


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


def test_a_third_domain_needs_a_package_and_a_row():
    # What is shared by domains knows none of them; only the table, converters and commands do.
    knows = {part(path) for path in PACKAGE.rglob("*.py") if ours(path) & DOMAINS}
    assert knows - DOMAINS <= {"convert", "testing", "encoders"} | COMMANDS
    assert "language" not in {p for path in (PACKAGE / "language").rglob("*.py") for p in ours(path) & DOMAINS}


def test_nothing_imports_a_command():
    for path in PACKAGE.rglob("*.py"):
        assert not ours(path) & (COMMANDS - {part(path)}), path
        assert "convert" not in ours(path) - {part(path)}, path


def test_the_top_level_import_is_light():
    code = f"""
import sys
import mtlora_jax
assert not set({HEAVY}) & set(sys.modules), sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_file_is_one_idea():
    lengths = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    tests = {path: len(path.read_text().splitlines()) for path in (ROOT / "tests").rglob("*.py")}
    longest = max((lengths | tests).items(), key=lambda item: item[1])
    assert longest[1] <= 400, longest
    assert statistics.median(lengths.values()) < 150


STRUCK = (
    r"gives birth",
    r"\bborn\b",
    r"\bwhoever\b",
    r"worker's life",
    r"to be beaten",
    r"gather is none",
    r"\bfates?\b",
    r"\bmotions?\b",
    r"\bguess(ed)?\b",
    r"\btaps?\b(?! in| =|$)",
    r"\bfigures?\b(?!size)",
    r"\bspread\b",
    r"(?<!here )\bis no (?!longer)",
    r"learn_prompt",
    r"label_tree|\bAugmented\b",
)
"""Words that the field has a better one for, and code that is gone."""
ALLOWED = {"curves.py", "swin_weights.py"}
"""matplotlib's figures, and the taps of a filter."""


def test_struck_words_are_not_used():
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "configs").glob("*.py"), ROOT / "train.py", ROOT / "eval.py"]
    files += [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for path in files:
        if path.name in ALLOWED:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for word in STRUCK:
                assert not re.search(word, line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
