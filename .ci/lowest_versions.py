#!/usr/bin/env python3
"""Run tests with exactly the lowest versions that setup.cfg allows, in a virtual environment of their own.

    python3 .ci/lowest_versions.py [FOLDER [PYTEST-ARGUMENT ...]]

FOLDER keeps the environment for the next time; a temporary one is used otherwise. Without pytest's arguments, the tests
run that meet other packages' interfaces: loading, scoring, training, banks, the Hub, the pipelines, the command line.
"""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("baselines", "demo", "report", "serve", "test")
TESTS = tuple(
    f"tests/test_{name}.py"
    for name in (
        *("adapter", "bank", "cli", "data", "evaluation", "identity", "selection", "training"),
        *("hub_adapters", "hub_banks", "hub_cli", "hub_pairs", "hub_route", "hub_server"),
        *("pipelines", "pipelines_generation", "pipelines_scoring", "scorer_exactness"),
    )
)
_LOWEST = re.compile(r"([A-Za-z0-9_.-]+)>=([0-9][0-9a-z.]*)")


def lowest_versions(setup: Path = ROOT / "setup.cfg") -> dict[str, str]:
    """The lowest version of every requirement, by its name.

    Raises:
        ValueError: a requirement states none.
    """
    config = configparser.ConfigParser()
    config.read(setup, encoding="utf-8")
    stated = [config["options"]["install_requires"], *(config["options.extras_require"][name] for name in EXTRAS)]
    lowest = {}
    for line in "\n".join(stated).split():
        if line.startswith(f"{config['metadata']['name']}["):  # an extra within another
            continue
        found = _LOWEST.fullmatch(line)
        if found is None:
            raise ValueError(f"{line!r} in setup.cfg is not of the form name>=version")
        lowest[found[1]] = found[2]
    return lowest


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as place:
        environment = Path(arguments[0] if arguments else place).resolve() / "lowest"
        python = str(environment / "bin" / "python")
        if not environment.is_dir():
            subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        constraints = Path(place, "constraints.txt")
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in lowest_versions().items()))
        install = [python, "-m", "pip", "install", "--quiet", "--constraint", constraints]
        subprocess.run([*install, "--editable", f"{ROOT}[{','.join(EXTRAS)}]"], check=True)
        tests = arguments[1:] or TESTS
        return subprocess.run([python, "-m", "pytest", "-q", *tests], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
