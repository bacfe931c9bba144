"""Errors of the Hub's clients as our own errors with a remedy. Tokens never enter a message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from puma_hub.errors import (
    ConfigurationError,
    HubAccessError,
    HubError,
    HubNotFoundError,
    HubUnavailableError,
    PumaHubError,
    without_secrets,
)
from puma_hub.hub.markup import visible

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
_LATER = "try again later"


@contextmanager
def hub_errors(doing: str) -> Iterator[None]:
    """Turn errors of the Hub's clients into a :class:`HubError`; other errors pass.

    Args:
        doing: what is being done, with the repository, such as ``"push to user/name"``.
    """
    try:
        yield
    except PumaHubError:
        raise
    except Exception as error:
        ours = translated(error, doing)
        if ours is None:
            raise
        raise ours from error


def translated(error: BaseException, doing: str) -> PumaHubError | None:
    """The error of ours for ``error`` or for what caused it; None if the Hub has no part in it."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__
    # A wrapped answer of the server says more than the wrapper.
    for translate in (_answer, _refusal, _connection):
        for link in chain:
            ours = translate(link, doing)
            if ours is not None:
                return ours
    return None


def _answer(error: BaseException, doing: str) -> PumaHubError | None:
    """Our error for an HTTP status."""
    from huggingface_hub import errors

    if not isinstance(error, errors.HfHubHTTPError):
        return None
    status, said = error.response.status_code, _one_line(error.server_message)
    start = f"cannot {doing}: "
    if isinstance(error, errors.GatedRepoError):
        page = "ask for access on the repository's page"
        return HubAccessError(f"{start}the repository is gated and this token has no access{said}; {page}, or {_LOGIN}")
    if isinstance(error, errors.RevisionNotFoundError):
        return HubNotFoundError(
            f"{start}the repository has no such revision{said}; check its branches, tags and commits"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return HubNotFoundError(
            f"{start}the repository lacks the file {_file(error)}; check that it is the repository you mean"
        )
    if isinstance(error, (errors.RepositoryNotFoundError, errors.BucketNotFoundError)):
        kind_of = "bucket" if isinstance(error, errors.BucketNotFoundError) else "repository"
        return HubNotFoundError(
            f"{start}there is no such {kind_of}, or it is private and this token may not see it; check the name, or "
            f"{_LOGIN}"
        )
    if isinstance(error, errors.BucketBatchError):
        return HubError(f"{start}some files were not changed ({len(error.failures)} of them); run it again")
    remedies: dict[int, tuple[Callable[[str], PumaHubError], str]] = {
        400: (HubError, f"the Hub rejects the request{said}; correct what it names"),
        401: (HubAccessError, f"the Hub does not accept the token, or there is none{said}; {_LOGIN}"),
        403: (HubAccessError, f"this token lacks the right{said}; use one with that right or another namespace"),
        404: (HubNotFoundError, f"the Hub does not know it{said}; check the name"),
        409: (HubError, f"it was changed or made by somebody else at the same time{said}; look at it and run again"),
        412: (HubError, f"it was changed by somebody else at the same time{said}; look at it and run again"),
        429: (HubUnavailableError, f"too many requests{_wait(error)}{said}; {_LATER}"),
    }
    if status >= 500:
        return HubUnavailableError(f"{start}the Hub has a fault (status {status}){said}; {_LATER}")
    kind, text = remedies.get(status, (HubError, f"the Hub answered with status {status}{said}; check the request"))
    return kind(start + text)


def _refusal(error: BaseException, doing: str) -> PumaHubError | None:
    """Our error for a refusal of the client itself."""
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    if isinstance(error, HFValidationError):
        return ConfigurationError(f"cannot {doing}: {_clean(str(error))}")
    if isinstance(error, LocalTokenNotFoundError):
        return HubAccessError(f"cannot {doing}: there is no token; {_LOGIN}")
    if isinstance(error, OfflineModeIsEnabled):
        return HubUnavailableError(f"cannot {doing}: offline mode is on; unset HF_HUB_OFFLINE")
    return None


def _connection(error: BaseException, doing: str) -> PumaHubError | None:
    """Our error for a connection that fails or breaks."""
    import httpx2
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not isinstance(error, (httpx2.HTTPError, LocalEntryNotFoundError, ConnectionError, TimeoutError)):
        return None
    return HubUnavailableError(
        f"cannot {doing}: the Hub cannot be reached, or the connection broke ({type(error).__name__}); check the "
        f"network and HF_ENDPOINT; {_LATER}"
    )


def _clean(text: str) -> str:
    return without_secrets(visible(text))[:300]


def _one_line(message: str | None) -> str:
    return f" ({_clean(message)})" if message else ""


def _wait(error: HfHubHTTPError) -> str:
    seconds = error.response.headers.get("retry-after", "")
    return f", to be repeated after {seconds} s" if seconds.isdigit() else ""


def _file(error: HfHubHTTPError) -> str:
    return _clean(str(error.response.url).split("?")[0].rpartition("/")[2])
