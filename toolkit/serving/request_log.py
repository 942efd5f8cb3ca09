"""A line of JSON a request on stderr, and the id that ties it to the client's own records."""

from __future__ import annotations

import itertools
import json
import logging
import re
import sys
import time
import uuid
from typing import TextIO

ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
NAME = "toolkit.serving"


_PROCESS, _NUMBERS = uuid.uuid4().hex[:20], itertools.count()


def request_id(given: str | None) -> str:
    """The client's id, if it is one that can stand in a log; else a new one.

    A new one is the process's own part and a number: a random one a request would ask the system, and let go of
    Python's lock, which under load takes longer than the request's own work.
    """
    return given if given and ID.fullmatch(given) else f"{_PROCESS}{next(_NUMBERS):012x}"


class JsonLines(logging.Formatter):
    """A log record as an object of JSON in one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Time in UTC, level, message, what the record has beside it, and a traceback where there is one."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        content = {"time": f"{moment}.{int(record.msecs):03d}Z", "level": record.levelname.lower()}
        content |= {"message": record.getMessage()} | getattr(record, "fields", {})
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content)


class RequestLog:
    """What a server says of itself and of its requests.

    Args:
        requests: whether every request gets a line; those that fail always do.
        stream: where the lines go; stderr unless given.
    """

    def __init__(self, *, requests: bool = True, stream: TextIO | None = None) -> None:
        self._requests = requests
        self.handler = logging.StreamHandler(stream or sys.stderr)
        self.handler.setFormatter(JsonLines())
        self._log = logging.getLogger(NAME)
        self._log.handlers = [self.handler]
        self._log.setLevel(logging.INFO)
        self._log.propagate = False

    def said(self, message: str, **fields: object) -> None:
        """Something that happened."""
        self._log.info(message, extra={"fields": fields})

    def warned(self, message: str, **fields: object) -> None:
        """Something that somebody should look at."""
        self._log.warning(message, extra={"fields": fields})

    def failure(self, identity: str) -> None:
        """An error of the program, with its traceback."""
        self._log.exception("the server failed", extra={"fields": {"request_id": identity}})

    def request(self, identity: str, method: str, path: str, status: int | str, seconds: float, model: str) -> None:
        """A request that was answered."""
        if self._requests:
            fields: dict[str, object] = {"request_id": identity, "method": method, "path": path, "status": status}
            fields |= {"milliseconds": round(1000 * seconds, 3)} | ({"model": model} if model else {})
            self._log.info("request", extra={"fields": fields})
