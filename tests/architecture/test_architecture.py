"""The rules that keep the structure: who may import whom, what start-up costs, how large the public API is."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINTER = Path(sys.executable).with_name("lint-imports")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    # --no-cache: the control below differs from the checkout in one line only.
    command = [LINTER, "--config", ROOT / "pyproject.toml", "--no-cache"]
    return subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(folder / "src")}, capture_output=True, text=True, check=False)


def test_the_import_contract_holds() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("losses/divergence.py", "import stillroom.training"),  # up
        ("evaluation/metrics.py", "import stillroom.teachers"),  # a neighbour
        ("lineage/policy.py", "import torch"),  # heavy, in a light area
    ],
)
def test_the_import_contract_can_fail(tmp_path: Path, module: str, line: str) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    broken = tmp_path / "src" / "stillroom" / module
    broken.write_text(broken.read_text() + f"\n{line}\n")
    result = lint(tmp_path)
    assert result.returncode != 0
    assert "BROKEN" in result.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["check", "jobs/breast-cancer.yaml"], ["schema"]])
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, stillroom.cli\n"
        f"sys.argv = ['stillroom', *{arguments!r}]\n"
        "try: stillroom.cli.main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = sorted({'torch', 'transformers', 'sklearn', 'pandas', 'numpy', 'lightgbm'} & set(sys.modules))\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_import_stillroom_is_light_and_its_names_are_there() -> None:
    code = (
        "import sys, stillroom\n"
        "heavy = sorted({'torch', 'sklearn', 'pandas', 'numpy', 'pydantic'} & set(sys.modules))\n"
        "assert not heavy, heavy\n"
        "for name in stillroom.__all__: getattr(stillroom, name)\n"
        "assert 'torch' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_public_api_is_small_and_known() -> None:
    import stillroom

    assert stillroom.__all__ == ["DistilledClassifier", "DistilledRegressor", "Job", "Run", "load", "run"]
    with pytest.raises(AttributeError, match="no attribute 'rnu'"):
        _ = stillroom.rnu


def test_every_module_says_what_it_is_for_and_stays_readable() -> None:
    modules = sorted((ROOT / "src").rglob("*.py"))
    assert len(modules) > 40
    for module in modules:
        text = module.read_text(encoding="utf-8")
        assert text.startswith(('"""', "# ")), f"{module} has no docstring"
        assert len(text.splitlines()) <= 450, f"{module} has outgrown a page: split it by concept"


def test_every_module_imports_without_extras_or_names_the_missing_one() -> None:
    # In a process that cannot find the packages of any extra. What runs without torch is listed by what must not ask for it.
    code = (
        "import importlib, pkgutil, sys\n"
        "class NoExtras:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'torch', 'transformers', 'tokenizers', 'safetensors', 'accelerate', 'onnxscript'}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, NoExtras())\n"
        "import stillroom\n"
        "from stillroom.core.errors import MissingExtra\n"
        "for module in pkgutil.walk_packages(stillroom.__path__, 'stillroom.'):\n"
        "    if module.name.endswith('__main__'): continue\n"
        "    try: importlib.import_module(module.name)\n"
        "    except MissingExtra as missing: print(module.name, missing.extra)\n"
        "    else: print(module.name, 'base')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = dict(line.split() for line in result.stdout.splitlines())
    assert len(found) > 100
    assert {"torch", "base"} == set(found.values())
    light = ("core", "spec", "lineage", "data", "knowledge", "evaluation", "report", "pipeline", "cli")
    heavy = [name for name, extra in found.items() if extra != "base" and name.split(".")[1] in light]
    assert not [name for name in heavy if not name.startswith(("stillroom.pipeline.language.", "stillroom.pipeline.responses."))], (
        "the stages of language models alone need torch"
    )


def test_the_oldest_dependencies_are_those_that_pyproject_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    floors = dict(requirement.split(">=") for requirement in project["dependencies"])
    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins.keys() == floors.keys()
    # A floor of 3.15 is met first by 3.15.1 where 3.15.0 was withdrawn.
    assert not [name for name, floor in floors.items() if not f"{pins[name]}.".startswith(f"{floor}.")]
