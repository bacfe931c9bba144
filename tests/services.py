"""Services that tests ask over HTTP: on a free port of this machine, with tiny models."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import torch

from puma_hub import PersonalizedLM, PromptBank, RatingTask
from puma_hub.serving.prompts import Prompts
from puma_hub.serving.service.backend import Backend, BackendSetting
from puma_hub.serving.service.keys import ApiKeys
from puma_hub.serving.service.limits import ServiceLimits
from puma_hub.serving.service.local import LocalBackend
from puma_hub.serving.service.meters import Meters
from puma_hub.serving.service.running import Running, listening
from puma_hub.serving.service.service import Service
from tests.conftest import CHAT_TEMPLATE, make_bank, make_model, make_tokenizer

MODEL = "tiny"
USUAL = {"timeout": 60.0}
ITEM = "Toy Story (1995)"
ROW = {"user": "user-1", "item_text": ITEM}


def rated_bank(users: int = 8) -> PromptBank:
    """Prompts of two rows for :func:`chat_lm`, as if trained with its template and task."""
    template = "<item>\nRating by one user:<user> "
    return make_bank(users, family="llama", length=2, template=template, task=RatingTask())


def chat_lm(family: str = "llama", **options: Any) -> PersonalizedLM:
    """A scorer whose tokenizer has a chat template."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    return PersonalizedLM(make_model(family), tokenizer, model_id=f"tiny/{family}", **options)


def saved_service(folder: Path) -> Path:
    """The folder, with a tiny model in ``llama`` and the prompts of :func:`rated_bank` in ``bank``."""
    lm = chat_lm()
    lm.model.save_pretrained(folder / "llama")
    lm.tokenizer.save_pretrained(folder / "llama")
    rated_bank().save_pretrained(folder / "bank")
    return folder


@dataclass
class Served:
    """A service that runs in this process."""

    url: str
    service: Service
    running: Running
    client: httpx2.Client

    def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        return self.client.post(path, json=body, headers=headers)

    def score(self, body: Any, **headers: str) -> httpx2.Response:
        return self.post("/v1/score", body, **headers)

    def text(self, path: str = "/v1/completions", **fields: Any) -> Any:
        """The answer to a text request, which has to succeed."""
        answer = self.post(path, {"user": "user-1", "temperature": 0, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def events(self, path: str = "/v1/completions", **fields: Any) -> list[Any]:
        """The chunks of a streamed answer, which has to end with ``[DONE]``."""
        with self.client.stream("POST", path, json={"user": "user-1", "stream": True, **fields}) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in answer.iter_lines() if line]
        assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
        return [json.loads(line[6:]) for line in lines[:-1]]


@contextmanager
def serving(
    make: Callable[[BackendSetting], Backend],
    lm: PersonalizedLM | None,
    prompts: Prompts,
    *,
    keys: tuple[str, ...] = (),
    only_here: bool = False,
    unknown_users: str = "error",
    wait: bool = True,
    model: str = MODEL,
    **limits: Any,
) -> Iterator[Served]:
    """A service with the back end ``make``; stopped at the end."""
    bounds = ServiceLimits(**{**USUAL, **limits})
    meters = Meters()
    loaded: Callable[[], Any] = lambda: lm  # noqa: E731
    setting = BackendSetting(loaded, prompts, bounds, meters, unknown_users=unknown_users, model=model)
    service = Service(MODEL, bounds, ApiKeys(keys), meters, only_here=only_here)
    with listening("127.0.0.1", 0) as (bound, url):
        running = Running(service, lambda: make(setting), bound, lambda _: None)
        failures: list[BaseException] = []

        def run() -> None:
            try:
                running.run()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            with httpx2.Client(base_url=url, timeout=60, headers={"host": "localhost"}) as client:
                while wait and not failures and client.get("/readyz").status_code != 200:
                    pass
                yield Served(url, service, running, client)
        finally:
            running.stop()
            thread.join(60)
            assert not thread.is_alive()
        if failures:
            raise failures[0]


def local(lm: PersonalizedLM, prompts: Prompts, **options: Any) -> Any:
    """A service with the back end ``local``."""
    return serving(LocalBackend, lm, prompts, **options)


class Plain:
    """Scores and texts of one row at a time by a plain forward pass over input embeddings, without our scorer."""

    def __init__(self, bank: PromptBank, family: str = "llama") -> None:
        self.model: Any = make_model(family)
        self.tokenizer = make_tokenizer()
        self.prompts = {user: np.array(prompt) for user, prompt in zip(bank.user_ids, bank.prompts)}
        digits = [self.tokenizer(str(value), add_special_tokens=False)["input_ids"] for value in range(1, 6)]
        self.answers = [ids[0] for ids in digits]

    def embeds(self, before: str, prompt: np.ndarray, after: str) -> torch.Tensor:
        embed = self.model.get_input_embeddings()
        ids = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, after)]
        first, last = (embed(torch.tensor(part, dtype=torch.long)) for part in ids)
        return torch.cat([first, torch.tensor(prompt), last])[None]

    @torch.no_grad()
    def distribution(self, user: str, item: str) -> np.ndarray:
        """Of the answers 1 to 5 with the template ``rating``."""
        whole = self.embeds(f"{item}\nRating by one user:", self.prompts[user], " ")
        logits = self.model(inputs_embeds=whole).logits[0, -1, self.answers]
        found: np.ndarray = logits.softmax(-1).numpy()
        return found

    @torch.no_grad()
    def text(self, user: str, before: str, after: str, tokens: int) -> str:
        """The most likely continuation."""
        whole = self.embeds(before, self.prompts[user], after)
        mask = torch.ones(whole.shape[:2], dtype=torch.long)
        ids = self.model.generate(inputs_embeds=whole, attention_mask=mask, max_new_tokens=tokens, do_sample=False)
        return str(self.tokenizer.decode(ids[0], skip_special_tokens=True))


def distribution_of(answer: dict[str, Any]) -> np.ndarray:
    """The probabilities of a scored row, in the answers' order."""
    return np.array(list(answer["distribution"].values()))


@contextmanager
def held_up(served: Served, lm: PersonalizedLM, pool: ThreadPoolExecutor, **headers: str) -> Iterator[Any]:
    """Inside, the scorer's lock holds the worker up with one row, whose answer this gives; nothing is scored."""
    before = served.service.meters.batched["scores"]
    with lm._lock:
        first = pool.submit(served.score, ROW, **headers)
        until(lambda: served.service.meters.batched["scores"] > before)
        yield first


def until(reached: Any, seconds: float = 30.0) -> None:
    last = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < last, "it did not happen"
        time.sleep(0.005)
