"""Requests that are not answered with a prediction: why, and as which status of HTTP and gRPC."""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """Why a request is refused: the status of HTTP, that of gRPC, and whether the client is at fault."""

    BAD_REQUEST = 400, "INVALID_ARGUMENT"
    UNAUTHENTICATED = 401, "UNAUTHENTICATED"
    NOT_FOUND = 404, "NOT_FOUND"
    BODY_TIMEOUT = 408, "DEADLINE_EXCEEDED"
    TOO_LARGE = 413, "INVALID_ARGUMENT"
    UNSUPPORTED = 415, "INVALID_ARGUMENT"
    OVERLOADED = 429, "RESOURCE_EXHAUSTED"
    FAILED = 500, "INTERNAL"
    UNAVAILABLE = 503, "UNAVAILABLE"
    DEADLINE = 504, "DEADLINE_EXCEEDED"

    @property
    def http(self) -> int:
        """Status code of HTTP."""
        return self.value[0]

    @property
    def grpc(self) -> str:
        """Name of the status code of gRPC."""
        return self.value[1]


class Refused(Exception):  # noqa: N818 - an answer, not an error of the program
    """A request that gets no prediction.

    Args:
        reason: the kind.
        what: what is wrong with it and what to do, in one line.
        retry_after: seconds after which the client may try again, where that may help.
    """

    def __init__(self, reason: Reason, what: str, *, retry_after: float | None = None) -> None:
        super().__init__(what)
        self.reason, self.what, self.retry_after = reason, what, retry_after


def bad_request(what: str) -> Refused:
    """The client's request is malformed."""
    return Refused(Reason.BAD_REQUEST, what)
