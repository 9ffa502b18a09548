"""When going on makes no sense: one clear message instead of a failure a row."""

from __future__ import annotations

from stillroom.core.chat import Failure
from stillroom.core.errors import StageFailed
from stillroom.teachers.endpoint.address import Endpoint
from stillroom.teachers.endpoint.wire import AttemptFailed

_PASSING = frozenset({"rate-limited", "server-error", "timeout", "unreachable", "broken", "malformed"})
"""Reasons that lie with the server or the network, not with what was asked."""


class EndpointStopped(StageFailed):
    """The endpoint is down, or the job's settings do not fit it. What has been answered is kept."""


class Unanswered(StageFailed):
    """So little was answered that something is wrong with the job or the server."""


class Breaker:
    """Watches the attempts of all rows.

    A wrong setting (key, model, address) stops the run at once if nothing has ever succeeded; later, when many attempts in a row say
    so. Otherwise the run stops when nothing has succeeded for so long, or when so many rows in a row have failed for good.
    """

    _SETTINGS_IN_A_ROW = 20
    _ATTEMPTS_IN_A_ROW, _SECONDS, _SECONDS_REFUSED = 20, 60.0, 900.0
    _FIRST_ROWS, _ROWS = 20, 100

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._ever = False
        self._attempts, self._settings, self._rows, self._since = 0, 0, 0, 0.0

    def succeeded(self) -> None:
        self._ever = True
        self._attempts = self._settings = self._rows = 0

    def attempt_failed(self, failed: AttemptFailed, now: float) -> None:
        """Raises EndpointStopped if that was one too many."""
        self._since = self._since if self._attempts else now
        self._attempts += 1
        # Before anything has succeeded, no connection and a web page, too, speak of a wrong address.
        wrong = failed.reason in ("unauthorised", "not-found") or (not self._ever and (failed.settings or failed.reason == "unreachable"))
        self._settings = self._settings + 1 if wrong else 0
        if self._settings >= (self._SETTINGS_IN_A_ROW if self._ever else 1):
            raise EndpointStopped(self._setting_words(failed))
        patience = self._SECONDS_REFUSED if failed.reason == "rate-limited" else self._SECONDS
        if failed.retry and self._attempts >= self._ATTEMPTS_IN_A_ROW and now - self._since >= patience:
            raise EndpointStopped(
                f"{self._endpoint.url}: nothing but failures for {now - self._since:.0f} s, the last {words_of(failed)}. "
                f"What has been answered is kept; run again when the endpoint is up."
            )

    def row_failed(self, failure: Failure) -> None:
        """A row has failed for good. Raises EndpointStopped if that was one too many."""
        self._rows += 1
        if self._rows >= (self._ROWS if self._ever else self._FIRST_ROWS):
            remedy = "Run again when the server is well" if failure.reason in _PASSING else "Mend the request's parameters or the rows"
            raise EndpointStopped(
                f"{self._endpoint.url}: {self._rows} rows in a row failed for good, the last {words_of(failure)}. {remedy}; what has been "
                f"answered is kept."
            )

    def _setting_words(self, failed: AttemptFailed) -> str:
        url, words = self._endpoint.url, words_of(failed)
        variable = self._endpoint.api_key_env
        match failed.reason:
            case "unauthorised":
                source = f"the key in the environment variable {variable!r}" if variable else "it was sent no key: set teacher.api_key_env"
                return f"teacher.api_key_env: {url} says {words}. Check {source}, and what the account may do."
            case "not-found":
                return f"teacher.model: {url} says {words}. Check the model's name and teacher.base_url, which ends with the version (/v1)."
            case "malformed":
                return f"teacher.base_url: {url} gives {words}. Give the address of the API, which ends with the version (/v1)."
            case _:
                return f"teacher.base_url: {url} cannot be reached: {words}. Check the address, and that the server is up."


def words_of(failed: AttemptFailed | Failure) -> str:
    """A failure in a few words."""
    status = f" {failed.status}" if failed.status else ""
    return f"{failed.reason}{status} ({failed.detail})" if failed.detail else f"{failed.reason}{status}"
