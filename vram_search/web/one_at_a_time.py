"""Answers requests that read a whole study one after the other.

Each needs about 20 KB of memory for each trial of the study while it is answered. Side by side they
would need a multiple of it and be no faster, for Python computes in one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


class OneAtATime(APIRoute):
    """A route that waits until no other request to a route of this class is being answered.

    It waits without a thread, so that other requests are answered meanwhile.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def answer_alone(request: Request) -> Response:
            await request.body()  # a sender that stops in the middle holds up nobody
            async with request.app.state.whole_study:
                return await answer(request)

        return answer_alone
