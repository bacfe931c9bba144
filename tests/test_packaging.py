"""The package as users get it: lazy import, public names, Auto classes, wheel and installs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import puma_hub

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
    code = (
        "import importlib, time; spent = {}\n"
        f"for name in '{order}'.split(', '):\n"
        "    start = time.perf_counter(); importlib.import_module(name); spent[name] = time.perf_counter() - start\n"
        "print(spent['puma_hub'] / spent['transformers'])"
    )
    ratios = [float(python(code).stdout) for _ in range(3)]
    assert min(ratios) <= 0.1, ratios  # the least disturbed of three


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
    result = python(code + "; print(type(A.for_model('puma_adapter')).__name__)")
    assert result.stdout.strip() == "PumaConfig", result.stderr


def test_core_imports_neither_command_line_nor_demo() -> None:
    core = "adapter bank data evaluation identity migration pipelines scorer selection training"
    for folder in core.split():
        for file in (ROOT / "puma_hub" / folder).glob("*.py"):
            text = file.read_text()
            assert "puma_hub.cli" not in text and "puma_hub.demo" not in text, file
            assert not [
                line for line in text.splitlines() if line.startswith(("from puma_hub.hub", "import puma_hub.hub"))
            ], file


@pytest.mark.parametrize("name", ["PromptBank", "PersonalizedLM", "select_users", "find_adapters", "PumaAdapter"])
def test_any_name_may_be_imported_first(name: str) -> None:
    result = python(
        f"from puma_hub import {name}; from transformers import AutoConfig as A; A.for_model('puma_adapter')"
    )
    assert result.returncode == 0, result.stderr


def test_wheel_and_editable_install(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)],
        check=True,
    )
    wheel = next(tmp_path.glob("puma_hub-*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert {"puma_hub/py.typed", "puma_hub/hub_templates/adapter_card.md", "puma_hub/cli/main.py"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "examples", "hub_templates"))]
    where = (
        "from importlib.resources import files; import puma_hub; print(puma_hub.__file__);"
        "assert '{{' in files('puma_hub.hub_templates').joinpath('adapter_card.md').read_text()"
    )
    for kind, what in (("wheel", [str(wheel)]), ("clone", [str(ROOT)]), ("editable", ["-e", str(ROOT)])):
        environment = tmp_path / kind
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        run = str(environment / "bin" / "python")
        subprocess.run([run, "-m", "pip", "install", "--quiet", "--no-deps", *what], check=True)
        result = subprocess.run([run, "-c", where], capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 0, (kind, result.stderr)
        expected = str(ROOT) if kind == "editable" else str(environment)
        assert result.stdout.startswith(expected)
        assert subprocess.run([str(environment / "bin" / "puma-hub"), "--help"], capture_output=True).returncode == 0
