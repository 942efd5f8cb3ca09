"""Endpoints that read their requests themselves, in front of the application that describes them.

FastAPI's routing, dependencies and middleware take 0.1 ms a request, which is a tenth of what a small network takes on
one core; an endpoint that is given the bare request needs none of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.datastructures import Headers
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from toolkit.serving.tracing import span

Endpoint = Callable[..., Awaitable[Response]]
"""Takes the request, and its path's parameters by name."""


def described(app: FastAPI, path: str, endpoint: Endpoint, **description: Any) -> Route:
    """Describe a POST endpoint in FastAPI's application, and return the route that leads to it directly.

    Args:
        app: gets the endpoint, for its OpenAPI description.
        path: with the names of its parameters in braces.
        endpoint: whose name and docstring are the description's.
        description: what :meth:`fastapi.FastAPI.post` takes.
    """
    app.post(path, **description)(endpoint)
    return Route(path, endpoint, methods=["POST"])


class Direct:
    """An application with routes in front of it.

    Args:
        app: answers what fits no route.
        routes: in the order in which they are tried.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[Route]) -> None:
        self._app, self._routes = app, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        for route in self._routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                with span(f"POST {route.path}", Headers(scope=scope)):
                    response = await route.endpoint(Request(scope, receive), **scope["path_params"])
                    await response(scope, receive, send)
                return
        await self._app(scope, receive, send)
