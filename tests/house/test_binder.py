"""What mybinder.org builds: the environment agrees with pyproject.toml, repo2docker reads it, postBuild runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomllib", reason="reads pyproject.toml: Python 3.11")

ON_CONDA_FORGE = {"matplotlib": "matplotlib-base", "torch": "pytorch-cpu"}  # the same projects, named otherwise
LEFT_OUT = (".git", ".venv", "build", "dist", "node_modules", "__pycache__", ".*_cache", ".benchmarks")


@pytest.fixture(scope="module")
def environment(root):
    return yaml.safe_load((root / "binder" / "environment.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wanted(root):
    """pyproject.toml's requirements by name: the package's own, and those of the notebooks."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["demo"], *extras["lab"], *extras["torch"]]
    return {ON_CONDA_FORGE.get(one.name, one.name): one.specifier for one in map(Requirement, lines)}


@pytest.fixture(scope="module")
def given(environment):
    """environment.yml's packages by name; `python=3.11` is conda's way to say `==3.11.*`."""
    assert all(isinstance(line, str) for line in environment["dependencies"])
    found = {}
    for line in environment["dependencies"]:
        name, spec = re.fullmatch(r"([a-z0-9-]+)(.*)", line).groups()
        found[name] = SpecifierSet(f"=={spec[1:]}.*" if re.match(r"=\d", spec) else spec)
    return found


@pytest.fixture(scope="module")
def checkout(root, tmp_path_factory):
    """The repository as a clone has it, and the built front end."""
    folder = tmp_path_factory.mktemp("binder") / "repo"
    shutil.copytree(root, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    return folder


def test_packages_come_from_conda_forge_alone(environment):
    assert environment["channels"] == ["conda-forge"]


def test_every_package_is_there_with_the_projects_floor(given, wanted):
    assert sorted(set(given) - set(wanted)) == ["pip", "python"]
    assert sorted(set(wanted) - set(given)) == []
    floors = {name: spec for name, spec in given.items() if name in wanted and name != "ipykernel"}
    assert floors == {name: spec for name, spec in wanted.items() if name != "ipykernel"}


def test_the_kernel_is_one_that_keeps_listening(given, wanted):
    versions = ["6.29.0", "6.31.0", "7.0.1", "7.1.0", "7.2.0", "7.3.0", "7.4.0", "7.5.1"]
    taken = [version for version in versions if version in given["ipykernel"]]
    assert taken == ["6.31.0", "7.4.0", "7.5.1"]
    assert [version for version in taken if version not in wanted["ipykernel"]] == []


def test_python_is_the_one_the_project_names(given, root):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [line.rpartition(" ")[2] for line in project["classifiers"] if line.startswith("Programming Language")]
    assert [version for version in named if f"{version}.4" in given["python"]] == named


@pytest.mark.slow
def test_repo2docker_reads_it(checkout):
    if not os.environ.get("IPYELASTIC_REQUIRE_TORCH"):  # in CI it is there, and a skip is a failure
        pytest.importorskip("repo2docker", reason="needs jupyter-repo2docker: pip install -e '.[test]'")
    ended = subprocess.run(
        [sys.executable, "-m", "repo2docker", "--no-build", "--debug", str(checkout)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == 0, ended.stderr
    said = ended.stdout + ended.stderr
    assert 'env update -p ${NB_PYTHON_PREFIX} --file "binder/environment.yml"' in said
    assert "RUN ./binder/postBuild" in said
    assert "Building conda environment for python=3.11" in said


@pytest.mark.slow
def test_post_build_installs_the_package_without_the_network(checkout, tmp_path):
    # A fresh environment that has, as conda's would, what the package depends on; nothing can be downloaded.
    pytest.importorskip("hatchling", reason="needs hatchling: pip install -e '.[test]'")
    venv.create(tmp_path / "env", with_pip=True)
    ours = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env")}))
    roots = [path for path in sys.path if path.endswith("site-packages")]
    (ours / "dependencies.pth").write_text("\n".join(roots) + "\n")
    before = {path.name for path in ours.iterdir()}
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment.update(
        PATH=f"{tmp_path / 'env' / 'bin'}{os.pathsep}{environment['PATH']}",
        PIP_NO_INDEX="1",
        PIP_NO_BUILD_ISOLATION="0",  # pip's way to say: none
        PIP_DISABLE_PIP_VERSION_CHECK="1",
    )
    ended = subprocess.run(
        [str(checkout / "binder" / "postBuild")],
        cwd=checkout,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
    )
    assert ended.returncode == 0, ended.stdout
    added = {path.name for path in ours.iterdir()} - before
    assert {name for name in added if "-" not in name} == {"ipyelastic"}
    assert (ours / "ipyelastic" / "py.typed").is_file()
    assert (ours / "ipyelastic" / "notebook" / "static" / "panel.js").is_file()


def test_the_badge_opens_lab_on_the_quickstart(root):
    page = (root / "README.md").read_text(encoding="utf-8")
    (link,) = re.findall(
        r"\[!\[Binder\]\(https://mybinder\.org/badge_logo\.svg\)\]\((https://mybinder\.org/\S+)\)", page
    )
    parts = urlsplit(link)
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = urlsplit(project["urls"]["Documentation"]).path.strip("/")
    assert parts.path == f"/v2/gh/{repository}/HEAD"
    (opens,) = parse_qs(parts.query)["urlpath"]
    assert opens == "lab/tree/notebooks/quickstart.ipynb"
    assert (root / opens.removeprefix("lab/tree/")).is_file()
