"""Fresh interpreters for tests of imports, which start quickly.

They are forked from a process that has imported the packages below transformers and puma_hub, and neither of these.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass
from functools import cache
from typing import IO

BELOW = ("torch", "datasets", "accelerate", "sklearn.cluster", "scipy.stats")


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def python(code: str) -> Done:
    """Run ``code`` as ``python -c`` does."""
    asked, answers = _process().stdin, _process().stdout
    assert asked is not None and answers is not None
    asked.write(json.dumps(code) + "\n")
    asked.flush()
    return Done(**json.loads(answers.readline()))


@cache
def _process() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    atexit.register(process.kill)
    return process


def _run(code: str, out: IO[str], err: IO[str]) -> int:
    """Fork, run the code in the child, and return its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _serve() -> None:
    for name in BELOW:
        __import__(name)
    assert not {"transformers", "puma_hub"} & set(sys.modules)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            status = _run(json.loads(line), out, err)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read())
        answers.write(json.dumps(asdict(Done(status, *texts))) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file
    sys.path.insert(0, "")  # as with python -c
    _serve()
