"""What can go wrong with the hub: what is tried again, and every failure in our words.

Errors of the client may quote addresses with signatures, and whatever a server sends back: neither
these nor the token of the login reach a message of ours, and the client's error is not chained to it.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Collection
from textwrap import shorten
from typing import TypeVar

from saebench.errors import HubError, SaebenchError

Result = TypeVar("Result")

WAITS = (1.0, 2.0, 4.0)  # seconds before each new attempt
LONGEST_WAIT = 60.0  # seconds; a hub that asks for more is not waited for
BUSY = 429
TRANSIENT_STATUS = (408, BUSY, 500, 502, 503, 504)
CUT_SHORT = "Consistency check failed"  # how the client says that a file has another size
NETWORK = "Check the network; HF_HUB_OFFLINE=1 uses only what is in the cache."
LOG_IN = "log in with: hf auth login."
MIRROR = "The hub sends no such thing: check what HF_ENDPOINT points to."


def with_retries(
    asked: str, call: Callable[[], Result], transient: Collection[str], file: str | None = None
) -> Result:
    """What a call of the hub's client returns, tried again after failures that may pass.

    ``transient`` are the names of its network errors that may. Raises :class:`HubError` for every
    failure but ``OfflineModeIsEnabled`` and errors of our own.
    """
    from huggingface_hub.errors import OfflineModeIsEnabled

    waits = iter(WAITS)
    while True:
        try:
            return call()
        except (OfflineModeIsEnabled, SaebenchError):
            raise
        except Exception as error:  # transport errors differ between versions of the client
            wait = next(waits, None)
            pause = None if wait is None else _pause(error, wait, transient)
            if pause is None:
                raise explain(asked, error, file) from None
        time.sleep(pause)


def explain(asked: str, error: BaseException, file: str | None = None) -> HubError:
    """The failure in our words, with what to do about it."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # the client looked into its cache before it gave up
    known: list[tuple[type[BaseException], str, str]] = [
        (
            errors.GatedRepoError,
            "a gated repository",
            f"Accept its terms on its page and {LOG_IN}",
        ),
        (
            errors.RevisionNotFoundError,
            "no such revision",
            "Check the part after @; leave it out for the newest.",
        ),
        (
            errors.RepositoryNotFoundError,
            "no such repository, or a private one",
            f"Check org/repo; for a private repository {LOG_IN}",
        ),
        (
            errors.EntryNotFoundError,
            f"no file {file} at this revision" if file else "no such file at this revision",
            "The repository changed or is damaged; try again, or name another revision with @.",
        ),
    ]
    for kind, found, next_step in known:
        if isinstance(error, kind):
            return HubError(asked, found, next_step)
    subject = f"{asked}, file {file}" if file else asked
    return HubError(subject, *(_by_status(error) or _by_kind(error)))


def redacted(text: str) -> str:
    """A text without tokens, and without what follows the ``?`` of an address."""
    from huggingface_hub import get_token

    token = get_token()
    if token:
        text = text.replace(token, "<token>")
    text = re.sub(r"\bhf_[A-Za-z0-9_-]{6,}", "<token>", text)
    text = re.sub(r"(?i)\b(bearer|basic)\s+\S+", r"\1 <token>", text)
    text = re.sub(r"(https?://)[^/\s@]*@", r"\1", text)
    return re.sub(r"(https?://[^\s?'\"]*)\?[^\s'\"]*", r"\1", text)


def _by_status(error: BaseException) -> tuple[str, str] | None:
    """Found and next step for a status of HTTP."""
    status = _status(error)
    if status is None:
        return None
    if status == 401:
        return "the hub does not accept the login (401)", f"Check HF_TOKEN, or {LOG_IN}"
    if status == 403:
        return (
            "the hub forbids access (403)",
            "The login needs read access to this repository; " + LOG_IN,
        )
    if status == BUSY:
        wait = _asked_wait(error)
        later = f"in {wait:.0f} seconds" if wait is not None else "later"
        return "too many requests (429)", f"Try again {later}; a login is allowed more requests."
    if status >= 500:
        return (
            f"the hub has a problem of its own ({status}), still after {len(WAITS) + 1} attempts",
            "Try again later; HF_HUB_OFFLINE=1 uses only what is in the cache.",
        )
    return f"the hub answered with status {status}", NETWORK


def _by_kind(error: BaseException) -> tuple[str, str]:
    """Found and next step for a failure below HTTP."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space left for the download", "Free some, or set HF_HOME to another disk."
    if isinstance(error, PermissionError):
        return f"no permission to write {error.filename}", "Set HF_HOME to a folder of yours."
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return "a name too long for this disk", "Set HF_HOME to a shorter path, or to another disk."
    if CUT_SHORT in str(error):
        return (
            f"another size than the hub says, after {len(WAITS) + 1} attempts",
            "The connection cuts files short, or the file is damaged on the hub; try again later.",
        )
    kinds = _kinds(error)
    said = redacted(shorten((str(error).strip().split("\n") or [""])[0], 200, placeholder=" …"))
    known = {
        "ConnectTimeout": "the hub does not answer (timeout)",
        "TimeoutException": "the hub stopped answering (timeout)",
        "ConnectError": "no connection to the hub",
        "NetworkError": "the connection was lost",
        "RemoteProtocolError": "the connection was cut",
    }
    for kind, found in known.items():
        if kind in kinds:
            detail = f" ({said})".replace(". )", ")") if said else ""
            return f"{found}{detail}", NETWORK
    return f"{type(error).__name__}: {said or 'no message'}".rstrip(". "), NETWORK


def _pause(error: BaseException, wait: float, transient: Collection[str]) -> float | None:
    """Seconds after which another attempt makes sense; None where it does not."""
    status = _status(error)
    if status in TRANSIENT_STATUS:
        asked = max(_asked_wait(error) or 0.0, wait)
        return asked if asked <= LONGEST_WAIT else None
    kinds = _kinds(error)
    passing = kinds & set(transient) and "ConnectError" not in kinds
    return wait if status is None and (passing or CUT_SHORT in str(error)) else None


def _asked_wait(error: BaseException) -> float | None:
    """The seconds that the hub asks to wait for."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    for name, pattern in (("retry-after", r"\s*(\d{1,9})\s*"), ("ratelimit", r".*\bt=(\d{1,9}).*")):
        if match := re.fullmatch(pattern, str(headers.get(name, ""))):
            return float(match[1])
    return None


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _kinds(error: BaseException) -> set[str]:
    """The names of an error's classes: the client's transport changed its package, not its names."""
    return {kind.__name__ for kind in type(error).__mro__}
