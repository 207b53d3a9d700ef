"""The house: which layer may use which.

    model ◄── udfs ◄── jobs
      ▲                 ▲
      └── scripts, serving: the records (model.schema), the settings, which versions serve; scripts: the model too;
                        serving: how topics are read (udfs.reader)

`model` knows neither Flink nor Kafka, and nobody uses `scripts` or `serving`. What runs inside the TaskManager's JVM
(update-interest) never loads torch.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_USE = {
    "model": {"model"},
    "udfs": {"udfs", "model"},
    "jobs": {"jobs", "udfs", "model"},
    "serving": {"serving", "model.schema", "model.signals", "model.versions", "jobs.settings", "udfs.reader"},
    "scripts": {"scripts", "model", "jobs.settings", "jobs.topics", "jobs.versions", "jobs.encoders"},
}
FORBIDDEN = {
    "model": {"pyflink", "kafka"},
    "udfs": set(),
    "jobs": {"starlette", "uvicorn", "rich"},
    "serving": {"pyflink", "torch", "transformers"},
    "scripts": {"pyflink"},
}
IN_THE_JVM = ["model.schema", "model.interest", "model.compiled", "model.consumed", "model.versions", "udfs.interest"]
JOBS = [ROOT / "scripts" / file for file in ("rivals/plain_flink.py", "benchmarks/keyed_state.py")]
"""`flink run` submits them, as it does jobs/recommend.py: the scripts that are made of Flink."""
FILES = [file for layer in MAY_USE for file in sorted((ROOT / layer).glob("**/*.py"))]


def imports(file: Path) -> set[str]:
    """The modules that a file imports, wherever in it; `from jobs import topics` is `jobs.topics`."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno}: imports are absolute"
            below = node.module in MAY_USE
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if below else {node.module}
    return found


def within(module: str, allowed: set[str]) -> bool:
    return any(f"{module}.".startswith(f"{name}.") for name in allowed)


def layer_of(file: Path) -> str:
    return "jobs" if file in JOBS else file.relative_to(ROOT).parts[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_layer_uses_only_the_layers_below_it(file):
    """Every arrow points towards `model`; see the picture above."""
    allowed = MAY_USE[layer_of(file)] | {file.relative_to(ROOT).parts[0]}
    ours = {module for module in imports(file) if module.partition(".")[0] in {*MAY_USE, "tests"}}

    assert set() == {module for module in ours if not within(module, allowed)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_layer_keeps_away_from_libraries_that_are_not_its_own(file):
    """`model` runs without Flink and Kafka, the page without Flink and torch."""
    assert set() == {module for module in imports(file) if within(module, FORBIDDEN[layer_of(file)])}


def test_what_runs_inside_the_jvm_loads_no_torch():
    """Torch belongs in the workers of the vectorised UDFs, a process of their own."""
    asked = f"import sys, {', '.join(IN_THE_JVM)}; print({{'torch', 'transformers', 'rocksdict'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert "set()\n" == done.stdout, done.stderr


def test_settings_and_the_page_load_nothing_that_compiles():
    """They begin in a fraction of a second; numba alone takes half of one."""
    asked = "import sys, jobs.settings, serving.app; print({'torch', 'numba', 'pyflink'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert "set()\n" == done.stdout, done.stderr


@pytest.mark.parametrize("layer", MAY_USE)
def test_a_package_holds_nothing_itself(layer):
    """Import cycles go through `__init__.py` files that re-export: ours are empty."""
    assert "" == (ROOT / layer / "__init__.py").read_text()
