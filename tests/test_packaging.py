"""The package as users get it: lazy import, public names, Auto classes, wheel and installs."""

from __future__ import annotations

import configparser
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

import puma_hub
from tests import fresh_python

ROOT = Path(__file__).parents[1]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_every_public_name_is_there() -> None:
    for name in puma_hub.__all__:
        assert getattr(puma_hub, name) is not None
    assert set(puma_hub.__all__) <= set(dir(puma_hub))
    with pytest.raises(AttributeError):
        puma_hub.nothing  # noqa: B018


def test_import_is_light_and_changes_nothing() -> None:
    code = (
        "import logging, os, sys, warnings; before = dict(os.environ), logging.root.level, list(warnings.filters)\n"
        "requests = []; sys.addaudithook(lambda event, _: event.startswith('socket.') and requests.append(event))\n"
        "import puma_hub\n"
        "assert not requests and not {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)\n"
        "assert before == (dict(os.environ), logging.root.level, list(warnings.filters))"
    )
    result = python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("order", ["transformers, puma_hub", "puma_hub, transformers"])
def test_import_adds_little_to_that_of_transformers(order: str) -> None:
    """In modules, whose number does not depend on what else the machine does."""

    def loaded(names: str) -> set[str]:
        done = python(f"import sys, {names}; print(*sys.modules)")
        assert done.returncode == 0, done.stderr
        return set(done.stdout.split())

    added = loaded(order) - loaded("transformers")
    ours = {name for name in added if name.partition(".")[0] == "puma_hub"}
    assert "puma_hub" in ours and len(ours) <= 5, ours
    assert len(added - ours) <= 5, added - ours


@pytest.mark.parametrize(
    "code",
    [
        "import puma_hub; from transformers import AutoConfig as A",
        "import puma_hub; from transformers import AutoModel; from transformers import AutoConfig as A",
        "from transformers import AutoModel, AutoConfig as A; import puma_hub",
        "import puma_hub; puma_hub.PumaAdapter; from transformers import AutoConfig as A",
    ],
)
def test_auto_classes_know_ours_in_any_order(code: str) -> None:
    result = fresh_python.python(code + "; print(type(A.for_model('puma_adapter')).__name__)")
    assert result.stdout.strip() == "PumaConfig", result.stderr


@pytest.mark.parametrize("name", ["PromptBank", "PersonalizedLM", "select_users", "find_adapters", "PumaAdapter"])
def test_any_name_may_be_imported_first(name: str) -> None:
    result = fresh_python.python(
        f"from puma_hub import {name}; from transformers import AutoConfig as A; A.for_model('puma_adapter')"
    )
    assert result.returncode == 0, result.stderr


def test_a_checkout_on_the_path_finds_its_own_templates(tmp_path: Path) -> None:
    """Not installed at all, and beside an editable install of another checkout."""
    checkout = tmp_path / "checkout"
    for name in ("puma_hub", "hub_templates"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "from puma_hub.hub.templates import templates; folder = templates(); print(folder)\n"
        "assert '{{' in folder.joinpath('adapter_card.md').read_text()"
    )
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    for options, places in ((["-S"], [str(checkout), *packages]), ([], [str(checkout)])):
        result = subprocess.run(
            [sys.executable, *options, "-c", code],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == str(checkout / "hub_templates")


def test_the_map_of_the_folders_is_that_of_the_layers() -> None:
    """CONTRIBUTING.md shows the folders as import-linter holds them."""
    layers = re.search(r"^layers = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.S | re.M)
    shown = re.search(r"\| folder or module \|.*?\n\n", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    assert layers is not None and shown is not None
    held = [re.findall(r"\w+", line) for line in re.findall(r'"(.*)"', layers[1])]
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in shown[0].strip().splitlines()[2:]]
    there = {path.stem for path in (ROOT / "puma_hub").iterdir()}
    assert [[name for name in names if name in there] for names in rows] == held


def lowest_versions() -> dict[str, str]:
    """What the script .ci/lowest_versions.py reads out of setup.cfg."""
    spec = importlib.util.spec_from_file_location("lowest_versions", ROOT / ".ci" / "lowest_versions.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    found: dict[str, str] = script.lowest_versions()
    return found


def test_every_requirement_states_a_lowest_version_that_the_installed_one_meets() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    stated = config["options"]["install_requires"].split()
    lowest = lowest_versions()
    assert len(stated) > 10 and {line.partition(">=")[0] for line in stated} <= set(lowest)
    for name, version in lowest.items():
        assert Version(importlib.metadata.version(name)) >= Version(version), name
    pinned = (ROOT / "constraints.txt").read_text().split()
    assert pinned == [f"torch=={lowest['torch']}"]


def test_wheel_and_editable_install(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)],
        check=True,
    )
    wheel = next(tmp_path.glob("puma_hub-*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert {"puma_hub/py.typed", "puma_hub/hub_templates/adapter_card.md", "puma_hub/cli/main.py"} <= set(names)
    assert {"puma_hub/space/scores.html", "puma_hub/space/style.css"} <= set(names)
    assert {f"puma_hub/reproduce/presets/{preset}.yaml" for preset in ("cpu", "paper")} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "examples", "hub_templates"))]
    assert {str(file.relative_to(ROOT)) for file in (ROOT / "puma_hub").rglob("*.py")} <= set(names)
    where = (
        "from importlib.resources import files; import puma_hub; print(puma_hub.__file__);"
        "assert '{{' in files('puma_hub.hub_templates').joinpath('adapter_card.md').read_text()"
    )
    for kind, what in (("wheel", [str(wheel)]), ("clone", [str(ROOT)]), ("editable", ["-e", str(ROOT)])):
        environment = tmp_path / kind
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
        run = str(environment / "bin" / "python")
        pip = [sys.executable, "-m", "pip", "--python", run]  # installing pip itself takes longer than the rest
        subprocess.run([*pip, "install", "--quiet", "--no-deps", *what], check=True)
        result = subprocess.run([run, "-c", where], capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 0, (kind, result.stderr)
        expected = str(ROOT) if kind == "editable" else str(environment)
        assert result.stdout.startswith(expected)
        for script, typed in (("puma-hub", "puma-hub"), ("hf-puma", "hf puma")):
            shown = subprocess.run([str(environment / "bin" / script), "--help"], capture_output=True, text=True)
            assert shown.returncode == 0 and shown.stdout.startswith(f"usage: {typed} ")
