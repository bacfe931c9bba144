"""Ask a service of ``puma-hub serve`` for scores of a user, and for a text as it is written.

python ask.py --user 136 --item "Toy Story (1995)" --item "Heat (1995)"
python ask.py --user 136 --chat "Name one film for tonight."
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence

import httpx2


def scores(client: httpx2.Client, user: str, items: Sequence[str]) -> list[tuple[float, str]]:
    """The items with their scores, the best first."""
    answer = client.post("/v1/score", json=[{"user": user, "item_text": item} for item in items])
    require_success(answer)
    found = answer.json()
    for one in found:
        if "error" in one:
            raise SystemExit(one["error"]["message"])
    return sorted(((one["score"], item) for one, item in zip(found, items)), reverse=True)


def text(client: httpx2.Client, user: str, question: str) -> Iterator[str]:
    """The answer to a question, piece by piece."""
    body = {"user": user, "messages": [{"role": "user", "content": question}], "max_tokens": 60, "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            answer.read()
        require_success(answer)
        for line in answer.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                event = json.loads(line[6:])
                if "error" in event:
                    raise SystemExit(event["error"]["message"])
                yield event["choices"][0]["delta"].get("content", "")


def require_success(answer: httpx2.Response) -> None:
    if answer.status_code != 200:
        raise SystemExit(f"{answer.status_code}: {answer.json()['error']['message']}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--user", required=True)
    parser.add_argument("--item", action="append", default=[], help="a text to score; may be repeated")
    parser.add_argument("--chat", help="a question")
    args = parser.parse_args(arguments)
    key = os.environ.get("PUMA_HUB_API_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with httpx2.Client(base_url=args.url, headers=headers, timeout=120) as client:
        for score, item in scores(client, args.user, args.item) if args.item else ():
            print(f"{score:.2f}  {item}")
        if args.chat:
            for piece in text(client, args.user, args.chat):
                print(piece, end="", flush=True)
            print()


if __name__ == "__main__":
    main()
