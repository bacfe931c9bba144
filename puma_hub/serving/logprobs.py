"""Log-probabilities of a task's answers, read from what serving engines return."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from puma_hub.errors import ServingError

_TOKEN_ID = "token_id:"
_ENOUGH = 3  # of what is missing, in a message


def answer_logprobs(found: Any, answer_ids: Sequence[int]) -> list[float]:
    """The log-probability of each answer's token, in the task's order, of one row.

    Args:
        found: one of

            - a list of log-probabilities in the order of ``answer_ids``;
            - log-probabilities by token id, as numbers or as objects with ``logprob``: an entry of ``logprobs`` of
              vLLM's ``CompletionOutput``;
            - vLLM's answer to a completions request, or its choice; keys are ``token_id:N``, as the request asks for;
            - SGLang's answer to ``/generate``, or to ``/v1/score`` for one item.

    Raises:
        ServingError: it is none of these, an answer's log-probability is missing, or one is not finite.
    """
    values = _by_token(found)
    if isinstance(values, Mapping):
        missing = [token for token in answer_ids if token not in values]
        if missing:
            shown = ", ".join(map(str, missing[:_ENOUGH])) + (", ..." if len(missing) > _ENOUGH else "")
            raise ServingError(
                f"the engine gave no log-probability for {len(missing)} of {len(answer_ids)} answers (token ids "
                f"{shown}); ask for logprob_token_ids=requests.answer_ids, and start vLLM with --max-logprobs of at "
                f"least {len(answer_ids)}"
            )
        values = [values[token] for token in answer_ids]
    if len(values) != len(answer_ids):
        raise ServingError(f"the engine gave {len(values)} log-probabilities for {len(answer_ids)} answers")
    numbers = [float(getattr(value, "logprob", value)) for value in values]
    if not all(map(math.isfinite, numbers)):
        raise ServingError(
            "the engine gave log-probabilities that are not finite; run its model in bfloat16 or float32, and ask for "
            "raw log-probabilities (vLLM: --logprobs-mode raw_logprobs, its default)"
        )
    return numbers


def _by_token(found: Any) -> Mapping[int, Any] | Sequence[Any]:
    """Values by token id, or in the answers' order."""
    try:
        if isinstance(found, Mapping):
            return _of_mapping(found)
        if isinstance(found, Sequence) and not isinstance(found, (str, bytes)) and len(found):
            if isinstance(found[0], Mapping):  # vLLM: one for each new token
                return _of_mapping(found[0])
            return found
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ServingError(
            f"the engine's answer holds no log-probabilities ({type(error).__name__}: {error})"
        ) from error
    raise ServingError(f"log-probabilities are a list, a mapping or an engine's answer, got {type(found).__name__}")


def _of_mapping(found: Mapping[Any, Any]) -> Mapping[int, Any] | Sequence[Any]:
    if "choices" in found:
        (choice,) = found["choices"]
        return _of_mapping(choice)
    if "logprobs" in found:
        return _of_mapping(found["logprobs"])
    if "top_logprobs" in found:
        return _of_mapping(found["top_logprobs"][0])
    if "meta_info" in found:
        return {int(token): value for value, token, *_ in found["meta_info"]["output_token_ids_logprobs"][0]}
    if "scores" in found:
        (probabilities,) = found["scores"]
        return [math.log(value) if value > 0 else -math.inf for value in probabilities]
    return {int(str(key).removeprefix(_TOKEN_ID)): value for key, value in found.items()}
