"""``puma-hub serve`` under load: hostile bodies, many clients at once, memory, and whose prompt an answer is of."""

from __future__ import annotations

import asyncio
import gc
import json
import random
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import psutil
import pytest

from tests.services import Plain, Served, chat_lm, distribution_of, local, rated_bank

USERS = 40
BANK = rated_bank(USERS)
ITEMS = [f"Toy Story {'again ' * (number % 5)}({1990 + number})" for number in range(6)]
PATHS = ("/v1/score", "/v1/completions", "/v1/chat/completions")
CLIENTS, REQUESTS = 200, 3000
GROWTH = 32 * 2**20  # bytes, of a process of about 700 MB


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with local(chat_lm(), BANK, queue=4096, timeout=120.0) as one:
        yield one


# Hostile bodies


def valid(path: str, rng: random.Random) -> dict[str, Any]:
    user = f"user-{rng.randrange(USERS)}"
    if path == "/v1/score":
        return {"user": user, "item_text": rng.choice(ITEMS)}
    if path == "/v1/completions":
        return {"user": user, "prompt": "Heat", "max_tokens": 1}
    return {"user": user, "messages": [{"role": "user", "content": "Heat"}], "max_tokens": 1}


VALUES: list[Any] = [None, True, -1, 10**30, 1e308, "", "\0", "x" * 5000, [], {}, [[]], {"a": {}}, [None], [[""]]]
LITERALS = ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, "01", "0x1", "'a'", '"\\ud800"', '"\\x"', "tru", "-"]


def malformed(path: str, rng: random.Random) -> bytes:
    """A body that no endpoint can answer."""
    body = valid(path, rng)
    name = rng.choice([name for name in body if name != "max_tokens"])
    kind = rng.randrange(9)
    if kind == 0:  # wrong kinds of values; an empty list of rows or messages too
        body[name] = rng.choice([value for value in VALUES if not isinstance(value, str)])
        return json.dumps(body).encode()
    if kind == 1:
        del body[name]
        return json.dumps(body).encode()
    if kind == 2:
        body[rng.choice(["extra", "prompt_embeds", "\0", "", "x" * 1000])] = 1
        return json.dumps(body).encode()
    if kind == 3:  # numbers and words that are no JSON, or not for every reader
        return json.dumps(body).replace(json.dumps(body[name]), rng.choice(LITERALS), 1).encode()
    if kind == 4:
        return json.dumps(body)[: rng.randrange(1, 20)].encode()
    if kind == 5:
        depth = rng.choice([200, 5_000, 100_000])
        return rng.choice([b"[", b'{"a":', b'{"user":[']) * depth
    if kind == 6:
        return json.dumps(body).encode().replace(b"user-", bytes([rng.choice([0x80, 0xC3, 0xFF, 0xED])]), 1)
    if kind == 7:
        whole = json.dumps(body)
        return (whole[:-1] + f', "{name}": ' + json.dumps(body[name]) + "}").encode()
    return rng.choice([b"", b" ", b"null", b"true", b'"user-1"', b"12", b"\xef\xbb\xbf{}", b"\x00", rng.randbytes(50)])


def test_a_thousand_malformed_requests(served: Served) -> None:
    rng, statuses = random.Random(0), set()
    for _ in range(1000):
        path = rng.choice(PATHS)
        body = malformed(path, rng)
        answer = served.client.post(path, content=body, headers={"content-type": "application/json"})
        statuses.add(answer.status_code)
        assert answer.status_code in (400, 422), (path, body[:200], answer.text[:300])
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"]
        assert error["type"] == "invalid_request_error"
    assert served.score({"user": "user-1", "item_text": ITEMS[0]}).status_code == 200
    assert not {status for _, status in served.service.meters.answered} & {500, 502}


# Many clients


async def interleaved(url: str, clients: int, requests: int) -> tuple[list[tuple[int, int, Any]], dict[str, str]]:
    """Rows and texts of all users, asked for at once in a random order: (user, item, answer), and texts by user."""
    rng = random.Random(1)
    asked = [(rng.randrange(USERS), rng.randrange(len(ITEMS))) for _ in range(requests)]
    scored: list[tuple[int, int, Any]] = []
    texts: dict[str, str] = {}
    remaining = iter(asked)

    async def client(number: int, session: httpx2.AsyncClient) -> None:
        own = random.Random(number)
        for user, item in remaining:  # each takes the next one
            row = {"user": f"user-{user}", "item_text": ITEMS[item]}
            many = own.random() < 0.2
            body = [row, {**row, "user": f"user-{(user + 1) % USERS}"}, {**row, "user": "nobody"}] if many else row
            answer = await session.post("/v1/score", json=body)
            assert answer.status_code == 200, answer.text
            found = answer.json()
            if many:
                assert found[2]["error"]["code"] == "unknown_user"
                scored.extend([(user, item, found[0]), ((user + 1) % USERS, item, found[1])])
            else:
                scored.append((user, item, found))

    async def writer(number: int, session: httpx2.AsyncClient) -> None:
        for user in range(number, USERS, 4):
            body = {"user": f"user-{user}", "prompt": "Movie: Heat", "max_tokens": 5, "temperature": 0}
            answer = await session.post("/v1/completions", json=body)
            assert answer.status_code == 200, answer.text
            texts[f"user-{user}"] = answer.json()["choices"][0]["text"]

    limits = httpx2.Limits(max_connections=clients + 4)
    async with httpx2.AsyncClient(base_url=url, timeout=120, limits=limits, headers={"host": "localhost"}) as session:
        await asyncio.gather(
            *(client(number, session) for number in range(clients)), *(writer(number, session) for number in range(4))
        )
    return scored, texts


def test_every_answer_is_of_its_own_users_prompt(served: Served) -> None:
    plain = Plain(BANK)
    expected = np.stack([[plain.distribution(f"user-{user}", item) for item in ITEMS] for user in range(USERS)])
    flat = expected.transpose(1, 0, 2)  # users differ more than answers may
    gaps = [np.abs(of[:, None] - of[None]).max(-1)[~np.eye(USERS, dtype=bool)].min() for of in flat]
    assert min(gaps) > 1e-4
    scored, texts = asyncio.run(interleaved(served.url, CLIENTS, REQUESTS))
    assert len(scored) > REQUESTS
    for user, item, found in scored:
        np.testing.assert_allclose(distribution_of(found), expected[user, item], atol=1e-5)
    assert texts == {user: plain.text(user, "", "Movie: Heat", 5) for user in BANK.user_ids}
    meters = served.service.meters
    assert meters.worked["scores"] / meters.batched["scores"] > 4  # they were scored together
    assert served.service.backend.waiting() == {"scores": 0, "texts": 0}


def test_memory_does_not_grow(served: Served) -> None:
    process = psutil.Process()

    def ask(times: int) -> int:
        rows = [{"user": f"user-{user}", "item_text": item} for user in range(USERS) for item in ITEMS]
        for number in range(times):
            served.score(rows)
            served.score({"user": f"nobody-{number}", "item_text": "x"})
            served.client.post("/v1/score", content=b"[" * 50_000, headers={"content-type": "application/json"})
            served.text(prompt="Heat", max_tokens=2, user=f"user-{number % USERS}")
        gc.collect()
        return int(process.memory_info().rss)

    before = ask(15)
    after = ask(60)
    assert after - before < GROWTH, f"{(after - before) / 2**20:.0f} MB more"
