"""The package as docs/architecture.md describes it: order of packages, length and names of files, environment."""

import ast
import re
import sys
import tomllib
from collections import defaultdict
from importlib.metadata import packages_distributions
from pathlib import Path, PurePosixPath

import pytest

import ctr_pipeline

PACKAGE = Path(ctr_pipeline.__file__).parent
CHECKOUT = PACKAGE.parent
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

READ_THE_ENVIRONMENT = {"deployment/environment.py", "training/entry.py"}
SET_IT_FOR_LIBRARIES = {
    "engines/spark.py": "SPARK_DRIVER_MEMORY, read by the JVM that pyspark starts; put back afterwards",
    "serving/bundle.py": "ORT_DISABLE_TELEMETRY, read by onnxruntime when it loads",
    "serving/graph_file.py": "the folder of torch's compiler cache, made by the exporter; put back afterwards",
}

LONGEST_FILE = 400

CALLED_BY_WHAT_THEY_ARE_FOR = ("orchestration/assets/", "orchestration/checks/", "spec/")
"""Folders whose files are called like the package or file that they serve: assets, checks, sections of the spec."""
SHARED_NAMES = {
    "__init__.py": "Python's name",
    "errors.py": "the base of all errors, and the errors of one package that several of its files raise",
}


def layers() -> list[set[str]]:
    """The layers of import-linter, first those that import nothing of ours."""
    content = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    contracts = content["tool"]["importlinter"]["contracts"]
    (found,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [{name.strip().removeprefix("ctr_pipeline.") for name in layer.split(":")} for layer in reversed(found)]


def documented_packages() -> list[str]:
    page = (CHECKOUT / "docs" / "architecture.md").read_text()
    table = page.split("## Packages")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def test_the_page_and_the_import_contract_have_one_order() -> None:
    documented = iter(documented_packages())
    assert [{next(documented, "absent") for _ in layer} for layer in layers()] == layers()
    assert list(documented) == []


def test_every_folder_is_documented_and_every_documented_package_exists() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    modules = {name.removesuffix(".py") for name in FILES if "/" not in name} - {"__init__", "definitions"}
    assert sorted(documented_packages()) == sorted(folders | modules)


def test_no_file_is_longer_than_the_limit() -> None:
    tests = [path.relative_to(CHECKOUT) for path in (CHECKOUT / "ctr_pipeline_tests").rglob("*.py")]
    paths = [*(Path("ctr_pipeline") / name for name in FILES), *tests]
    lengths = {str(path): len((CHECKOUT / path).read_text().splitlines()) for path in paths}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_the_environment_is_read_in_two_files() -> None:
    users = {name for name in FILES if uses_the_environment((PACKAGE / name).read_text())}
    assert users - set(SET_IT_FOR_LIBRARIES) == READ_THE_ENVIRONMENT
    assert set(SET_IT_FOR_LIBRARIES) <= users


@pytest.mark.parametrize(
    "source",
    ["import os\nos.environ['A']", "import os\nos.getenv('A')", "from os import environ", "from os import getenv as e"],
)
def test_uses_of_the_environment_are_found(source: str) -> None:
    assert uses_the_environment(source)
    assert not uses_the_environment("import os\nos.path")


def test_packages_share_no_file_names() -> None:
    places = defaultdict(set)
    for name in FILES:
        if not name.startswith(CALLED_BY_WHAT_THEY_ARE_FOR):
            places[PurePosixPath(name).name].add(name)
    shared = {file: sorted(names) for file, names in places.items() if len(names) > 1}
    assert {file: names for file, names in shared.items() if file not in SHARED_NAMES} == {}


def uses_the_environment(source: str) -> bool:
    """Whether ``os.environ`` or ``os.getenv`` occurs in Python code."""
    names = {"environ", "environb", "getenv"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in names:
            if isinstance(node.value, ast.Name) and node.value.id == "os":
                return True
        elif isinstance(node, ast.ImportFrom) and node.module == "os" and names & {alias.name for alias in node.names}:
            return True
    return False


def imported_modules(source: str) -> set[str]:
    """First names of the modules that ``source`` imports, wherever it does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_every_package_that_is_imported_is_a_declared_dependency() -> None:
    """A development environment has packages that a user's installation lacks."""
    used = set().union(*(imported_modules(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")))
    others = used - set(sys.stdlib_module_names) - {"ctr_pipeline", "ctr_pipeline_tests"}
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [one for name, listed in project["optional-dependencies"].items() if name != "dev" for one in listed]
    wanted = {canonical(re.split(r"[\[<>=~! ]", one)[0]) for one in (*project["dependencies"], *extras)}
    given = packages_distributions()
    # Its plug-in is loaded by pytest alone.
    others -= {"pytest"}
    absent = {name for name in others if wanted.isdisjoint(canonical(one) for one in given.get(name, [name]))}
    assert absent == set()


def canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
