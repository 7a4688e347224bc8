"""The package as a newcomer meets it: names, imports, metadata, and what the README says to type."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import numbarnn

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def run_python(code, *options):
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    return subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, env=environment, timeout=300
    )


def test_version_is_that_of_the_installed_package():
    assert numbarnn.__version__ == importlib.metadata.version("numbarnn")


def test_changelog_knows_the_version():
    assert f"\n## {numbarnn.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_import_loads_nothing_heavy():
    heavy = ("numba", "numpy", "scipy", "sklearn", "matplotlib", "pandas", "torch", "jax", "onnxruntime")
    code = f"import sys, numbarnn; print([name for name in {heavy} if name in sys.modules])"
    done = run_python(code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_layer_needs_neither_sklearn_nor_plots():
    names = "[name for name in ('sklearn', 'matplotlib') if name in sys.modules]"
    done = run_python(f"import sys, numbarnn; numbarnn.Recurrent; print({names})")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("name", numbarnn.__all__)
def test_public_names_are_there(name):
    assert name in dir(numbarnn)
    value = getattr(numbarnn, name)
    assert value is getattr(numbarnn, name)
    assert value.__doc__


def test_star_import_gives_what_is_public():
    namespace = {}
    exec("from numbarnn import *", namespace)
    assert set(numbarnn.__all__) <= set(namespace)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="numbarnn.*has no attribute 'Transformer'"):
        numbarnn.Transformer  # noqa: B018


def test_package_is_marked_as_typed():
    assert (Path(numbarnn.__file__).parent / "py.typed").exists()


def test_names_of_this_table_are_imported_for_type_checkers():
    source = Path(numbarnn.__file__).read_text(encoding="utf-8")
    block = source.split("if TYPE_CHECKING:\n")[1].split("\n\n")[0]
    assert set(re.findall(r"\w+", block)) >= set(numbarnn.__all__)


def test_requirements_have_lower_bounds_and_no_upper_ones():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in project["dependencies"]:
        assert re.fullmatch(r"[a-z-]+>=[\d.]+", requirement)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_readme_example_runs(number):
    assert len(EXAMPLES[number].strip().splitlines()) <= 12
    done = run_python(EXAMPLES[number], "-W", "error")
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_readme_has_an_example_for_each_door():
    assert len(EXAMPLES) == 3


def test_readme_has_two_commands_that_make_their_own_environment():
    assert [len(command.splitlines()) for command in COMMANDS] == [1, 1]
    demo, tests = (command.strip() for command in COMMANDS)
    assert demo.endswith("numbarnn demo")
    assert re.search(r"\.venv/bin/pytest( -.*)?$", tests)
    for command in (demo, tests):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    for command in (demo, tests):
        assert re.search(r"\[(\w+)\]", command)[1] in extras


def test_ci_takes_its_command_from_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    pattern = re.search(r"grep -m1 -E '([^']+)' README.md", script)[1]
    assert re.findall(pattern, README, re.MULTILINE) == [COMMANDS[1].strip()]


def test_contributing_gives_the_same_test_command():
    assert COMMANDS[1].strip() in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_local_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing
