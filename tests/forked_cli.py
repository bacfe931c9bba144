"""``puma-hub`` in forked processes: a process of its own imports everything once, and forks for each command.

It reads a line of JSON for each command and answers with one. A command can be killed by SIGKILL: after some seconds,
since its start or since it first speaks to a server, or before its n-th file or folder below a place gets its name.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_CHANGES = ("os.rename", "os.link")
_WAITS = 120.0


@dataclass(frozen=True)
class Command:
    """What to run, and when it dies: ``after`` so many seconds, or before the change ``at`` of names.

    ``since_connected``: the seconds count from the first connection. ``places``: what the names begin with.

    ``file_bytes``: no file of the process can grow beyond that, as on a full disk.
    """

    arguments: Sequence[str]
    after: float | None = None
    since_connected: bool = False
    at: int | None = None
    places: Sequence[str] = ()
    file_bytes: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """``status`` is negative for a process that was killed; ``seconds`` since its start, or since it was connected."""

    status: int
    seconds: float
    out: str
    err: str

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


class ForkedCli:
    """The process that forks."""

    def __init__(self, place: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(place)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=ROOT
        )

    def run(self, *arguments: object, **options: Any) -> Ended:
        """Run a command; ``options`` are those of :class:`Command`."""
        asked, answers = self._process.stdin, self._process.stdout
        assert asked is not None and answers is not None
        asked.write(json.dumps(asdict(Command([*map(str, arguments)], **options))).encode() + b"\n")
        asked.flush()
        return Ended(**json.loads(answers.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


def _warm() -> None:
    """Import what commands import, and start no thread."""
    import importlib

    import torch
    import transformers

    torch.set_num_threads(1)
    for name in ("Gemma3ForCausalLM", "LlamaForCausalLM", "AutoTokenizer", "PreTrainedTokenizerFast"):
        getattr(transformers, name)
    ours = ("bank.publish", "bank.keyed_writer", "data.csv_file", "evaluation.report.migration", "migration")
    theirs = ("accelerate.data_loader", "huggingface_hub.hf_api", "matplotlib.backends.backend_svg", "pyarrow.acero")
    for module in (*(f"puma_hub.{name}" for name in ours), *theirs, "sklearn.decomposition"):
        importlib.import_module(module)
    from puma_hub.cli.main import build_parser

    build_parser()  # imports all commands
    with suppress(ImportError):  # half a second of transformers' own, which it keeps; elsewhere in other versions
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping

        get_checkpoint_conversion_mapping("llama")


def _die_at(number: int, places: tuple[str, ...]) -> None:
    """Kill this process at a change of names, which Python tells before it happens."""
    left = number

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal left
        names = [os.fspath(one) for one in given[:2] if isinstance(one, (str, os.PathLike))]  # from and to
        if event in _CHANGES and any(name.startswith(places) for name in names):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _tell_connected(pipe: int) -> None:
    """Write to a pipe before this process connects to a server."""

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            os.write(pipe, b".")

    sys.addaudithook(hook)


def _child(command: Command, out: int, err: int, connected: int) -> None:
    """Run the command in this process, which ends here."""
    status = 1
    try:
        os.setsid()
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.environ.update(command.environment)
        if command.file_bytes is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (command.file_bytes, resource.RLIM_INFINITY))
        if command.at is not None:
            _die_at(command.at, tuple(command.places))
        if command.since_connected:
            _tell_connected(connected)
        from puma_hub.cli.main import main

        status = main(command.arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _ended(command: Command) -> Ended:
    """Run the command in a child; its output comes by pipes, which a limit on files does not touch."""
    pipes = [os.pipe() for _ in range(3)]
    said = [bytearray() for _ in pipes]
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        _child(command, *(writing for _, writing in pipes))
    for reading, writing in pipes:
        os.close(writing)
        os.set_blocking(reading, False)
    waits, after = command.since_connected, _WAITS if command.after is None else command.after
    status = None
    while status is None:
        ended, found = os.waitpid(child, os.WNOHANG)
        if ended:
            status = os.waitstatus_to_exitcode(found)
        for (reading, _), text in zip(pipes, said):
            text += _waiting(reading)
        if waits and said[-1]:
            waits, began = False, time.perf_counter()
        if status is None and time.perf_counter() >= began + (_WAITS if waits else after):
            os.kill(child, signal.SIGKILL)
        time.sleep(0.001)
    seconds = time.perf_counter() - began
    for reading, _ in pipes:
        os.close(reading)
    return Ended(status, seconds, *(text.decode(errors="replace") for text in said[:2]))


def _waiting(pipe: int) -> bytes:
    found = b""
    while True:
        try:
            more = os.read(pipe, 2**16)
        except BlockingIOError:
            return found
        if not more:
            return found
        found += more


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _warm()
    for line in sys.stdin:
        answers.write(json.dumps(asdict(_ended(Command(**json.loads(line))))) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
