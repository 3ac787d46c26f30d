"""pyproject.toml, environment.yml and constraints.txt tell the same story."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {
    "matplotlib": "matplotlib-base",
    "torch": "pytorch-cpu",
    "playwright": "playwright-python",
    "osmium": "pyosmium",
}
"""Packages that conda-forge calls otherwise."""


def split(requirement: str) -> tuple[str, str]:
    name, bound = re.fullmatch(r"([A-Za-z0-9_.-]+)\s*(\S*)", requirement.strip()).groups()
    return name.lower().replace("_", "-"), bound


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def conda() -> dict[str, str]:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return dict(split(item) for item in listed if isinstance(item, str))


def pinned() -> set[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {split(line)[0] for line in lines if line and not line.startswith("#")}


def test_conda_asks_for_the_same_packages_and_bounds_as_pip():
    settings = project()
    wanted = dict(split(item) for item in settings["dependencies"] + settings["optional-dependencies"]["test"])
    wanted = {CONDA_NAMES.get(name, name): bound for name, bound in wanted.items()}
    listed = conda()
    assert listed.pop("python") == settings["requires-python"]
    listed.pop("pip")
    assert listed == wanted


@pytest.mark.parametrize("group", ["dependencies", "test", "lint", "bench"])
def test_every_package_asked_for_is_pinned(group):
    settings = project()
    wanted = settings["dependencies"] if group == "dependencies" else settings["optional-dependencies"][group]
    assert {split(item)[0] for item in wanted} <= pinned()


def test_the_makefile_installs_the_torch_that_the_constraints_pin():
    version = re.search(r"TORCH_VERSION := (\S+)", (ROOT / "Makefile").read_text()).group(1)
    assert f"torch=={version}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_only_ml_imports_torch():
    sources = [*(ROOT / "historymap_lib").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    assert sources
    assert not [path.name for path in sources if re.search(r"^\s*(import|from) torch", path.read_text(), re.MULTILINE)]
