"""What Windows lacks or does otherwise, on any system."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from puma_hub.storage import new_folder
from puma_hub.training import report
from tests.test_storage import killed


def test_whether_a_process_lives_is_asked_without_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(tmp_path / "bank", "")
    monkeypatch.setattr(os, "kill", None)  # os.kill(process, 0) ends the process there
    monkeypatch.setattr(psutil, "pid_exists", lambda process: False)
    with new_folder(tmp_path / "bank"):
        pass
    assert os.listdir(tmp_path) == ["bank"]


def test_peak_memory_without_the_module_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    spec = importlib.util.spec_from_file_location("report_again", report.__file__)
    assert spec is not None and spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert 10**6 < again.peak_memory()["ram"] < 10**12
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=123, rss=1))
    monkeypatch.setattr(psutil, "Process", lambda: process)
    assert again.peak_memory()["ram"] == 123
