"""Load on the HTTP service: requests a second, latency, and what share of the bare scorer's speed is left.

    python benchmarks/load.py --model smollm2-135m --clients 50

``puma-hub serve`` runs in a process of its own, on a bank of random users. Each client sends one row over a connection
of its own, and the next when the answer is there. In turns with that, the scorer is called directly, in batches of the
size that the service had on average: what else the machine does then changes both. Scorer, service and clients have the
same cores. CPU times tell the clients' part, who would be elsewhere, from the service's, and of that the part of HTTP,
JSON and the event loop. Items' texts are in the prefix cache before the clock runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from puma_hub import PersonalizedLM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a model of puma-hub fetch, a folder or a Hub id")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--users", type=int, default=943)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--serve", default="", help="more arguments of puma-hub serve, such as '--max-wait-ms 5'")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        report = measured(args, Path(place))
    print(json.dumps(report, indent=2))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")


def measured(args: argparse.Namespace, place: Path) -> dict[str, Any]:
    import numpy as np

    from puma_hub import PersonalizedLM, PromptBank
    from puma_hub.demo.load_model import fetched_model
    from puma_hub.demo.sources import MODELS

    folder, identity = fetched_model(args.model, say) if args.model in MODELS else (args.model, {})
    lm = PersonalizedLM.from_pretrained(folder, dtype=args.dtype, **identity)
    rng = np.random.default_rng(0)
    prompts = rng.standard_normal((args.users, 1, lm.hidden_size)).astype(np.float32) * lm.embedding_rms
    users = [f"user-{number:06d}" for number in range(args.users)]
    bank = PromptBank.from_arrays(users, prompts, lm.spec, template=lm.template.text, task=lm.task)
    bank.save_pretrained(place / "bank")
    items = texts_of_items(args.items)
    lm.fill_cache(lm.encode([{"item_text": item} for item in items]))
    serve = ["serve", "--model", args.model, "--dtype", args.dtype, "--bank", str(place / "bank"), "--port", "0"]
    command = [sys.executable, "-m", "puma_hub.cli.main", *serve, *args.serve.split()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    through, alone = Turns(), Turns()
    try:
        assert process.stdout is not None
        load = Load(process.stdout.readline().strip(), process.pid, args.clients, users, items)
        load.warm_up()
        for number in range(args.turns):
            load.turn(args.seconds, through)
            direct(lm, prompts, items, round(load.batch_size()), args.seconds, alone)
            say(f"{number + 1}/{args.turns}: {through.rate:.1f} rows/s served, {alone.rate:.1f} by the scorer alone")
    finally:
        process.terminate()
        process.wait()
    return {
        "model": args.model,
        "dtype": str(lm.dtype),
        "cores": len(os.sched_getaffinity(0)),
        "clients": args.clients,
        "requests": through.rows,
        "requests_per_second": through.rate,
        "latency_ms": load.latencies(),
        "mean_batch_size": load.batch_size(),
        "cpu_ms_per_row": {
            "service": through.cpu_ms,
            "of_it_http": 1000 * load.http_cpu / through.rows,
            "clients": 1000 * load.own_cpu / through.rows,
            "scorer_alone": alone.cpu_ms,
        },
        "scorer_alone_rows_per_second": alone.rate,
        "share_of_the_scorer": through.rate / alone.rate,
        "share_by_cpu_time_without_clients": alone.cpu_ms / through.cpu_ms,
    }


@dataclass
class Turns:
    """What was done in all turns."""

    rows: int = 0
    seconds: float = 0.0
    cpu: float = 0.0

    @property
    def rate(self) -> float:
        return self.rows / self.seconds

    @property
    def cpu_ms(self) -> float:
        return 1000 * self.cpu / self.rows


def texts_of_items(number: int) -> list[str]:
    """Texts of MovieLens's films, those with the most ratings first."""
    from puma_hub.data import load_interactions
    from puma_hub.demo.fetch import fetch

    found = load_interactions("movielens-100k", folder=fetch("movielens-100k", say))["train"]
    return list(found.to_pandas()["item_text"].value_counts().index[:number])


def direct(lm: PersonalizedLM, prompts: np.ndarray, items: list[str], size: int, seconds: float, turns: Turns) -> None:
    """``lm.logits`` on rows and prompts as they come, as the service has them."""
    import numpy as np
    import torch

    rng, everyone = np.random.default_rng(1), torch.from_numpy(prompts)
    began, spent = time.perf_counter(), time.process_time()
    with torch.no_grad():
        while time.perf_counter() < began + seconds:
            rows = [{"item_text": items[item]} for item in rng.integers(0, len(items), size)]
            lm.logits(everyone[rng.integers(0, len(prompts), size)], rows).softmax(-1).tolist()
            turns.rows += size
    turns.seconds += time.perf_counter() - began
    turns.cpu += time.process_time() - spent


class Load:
    """Clients of a service."""

    def __init__(self, address: str, process: int, number: int, users: list[str], items: list[str]) -> None:
        import psutil

        self.address, self.number, self.users, self.items = address, number, users, items
        self.service = psutil.Process(process)
        self.host, port = address.removeprefix("http://").split(":")
        self.port = int(port)
        self.times: list[float] = []
        self.own_cpu = self.http_cpu = 0.0
        self.batches = 0.0, 0.0

    def warm_up(self) -> None:
        """Wait until the service is ready, and let it read all items."""
        while True:
            try:
                urllib.request.urlopen(f"{self.address}/readyz").read()
                break
            except OSError:
                time.sleep(0.2)
        for start in range(0, len(self.items), 32):
            rows = [{"user": self.users[0], "item_text": item} for item in self.items[start : start + 32]]
            headers = {"content-type": "application/json"}
            urllib.request.urlopen(
                urllib.request.Request(f"{self.address}/v1/score", json.dumps(rows).encode(), headers)
            ).read()
        asyncio.run(self.clients(1.0, []))
        self.batches = self.batch_counts()

    def turn(self, seconds: float, turns: Turns) -> None:
        began, own, known = time.perf_counter(), time.process_time(), len(self.times)
        whole, http = self.spent()
        asyncio.run(self.clients(seconds, self.times))
        turns.seconds += time.perf_counter() - began
        turns.rows += len(self.times) - known
        self.own_cpu += time.process_time() - own
        turns.cpu += self.spent()[0] - whole
        self.http_cpu += self.spent()[1] - http
        self.now = self.batch_counts()

    def spent(self) -> tuple[float, float]:
        """Seconds of CPU time of the service, and of its main thread, in which its event loop is."""
        threads = {one.id: one.user_time + one.system_time for one in self.service.threads()}
        times = self.service.cpu_times()
        return times.user + times.system, threads[self.service.pid]

    def batch_size(self) -> float:
        """Of the turns' batches, on average."""
        return (self.now[1] - self.batches[1]) / (self.now[0] - self.batches[0])

    def latencies(self) -> dict[str, float]:
        times = sorted(self.times)
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
        return {name: 1000 * times[int(share * (len(times) - 1))] for name, share in shares.items()}

    def batch_counts(self) -> tuple[float, float]:
        """The number of batches so far, and of rows in them."""
        page = urllib.request.urlopen(f"{self.address}/metrics").read().decode()
        found = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
        count, rows = (float(found[f'puma_hub_batch_size_{name}{{queue="scores"}}']) for name in ("count", "sum"))
        return count, rows

    async def clients(self, seconds: float, times: list[float]) -> None:
        last = time.perf_counter() + seconds
        await asyncio.gather(*(self.client(last, random.Random(one), times) for one in range(self.number)))

    async def client(self, last: float, rng: random.Random, times: list[float]) -> None:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        while (began := time.perf_counter()) < last:
            body = json.dumps({"user": rng.choice(self.users), "item_text": rng.choice(self.items)}).encode()
            writer.write(
                b"POST /v1/score HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(body), body)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            answer = await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"the service answered {answer!r}")
            times.append(time.perf_counter() - began)
        writer.close()


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
