"""Requests to a service over aiohttp: each is sent once, and has at most one answer."""

from typing import Any, Self

import aiohttp
from yarl import URL

from idservice.client.address import ServiceAddress
from idservice.client.protocol import (
    ANSWER_MAX,
    NotSent,
    NoUsableAnswer,
    Reply,
    why_not_connected,
)

CHUNK = 65_536


class AsyncTransport:
    """Sends requests to one service, and none of them twice. Enter it to use it."""

    def __init__(self, address: ServiceAddress) -> None:
        self.url = address.url
        self._address = address
        scheme = "https" if address.tls else "http"
        self._base = f"{scheme}://{address.authority}"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        path = self._address.path
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path) if path else aiohttp.TCPConnector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "User-Agent": "idservice"},
            timeout=aiohttp.ClientTimeout(total=None),  # the caller has a deadline
            trust_env=False,  # a proxy could answer in the service's place
        )
        return self

    async def __aexit__(self, *failure: Any) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, method: str, target: str, body: bytes = b"") -> Reply:
        """Send one request. Raises NoUsableAnswer, of which NotSent proves that it was not sent."""
        assert self._session is not None, "enter it first"
        url = URL(self._base + target, encoded=True)
        try:
            async with self._session.request(
                method,
                url,
                data=body or None,
                allow_redirects=False,
                headers={"Content-Type": "application/json"} if body else None,
            ) as response:
                answer = b""
                async for chunk in response.content.iter_chunked(CHUNK):
                    answer += chunk
                    if len(answer) > ANSWER_MAX:
                        raise NoUsableAnswer(url=self.url, why="its answer is too long")
                return Reply(response.status, response.headers.get("Content-Type", ""), answer)
        except aiohttp.ClientConnectorError as error:
            # aiohttp repeats a PUT by itself: its first copy may have been sent (I7).
            kind = NoUsableAnswer if method == "PUT" else NotSent
            raise kind(url=self.url, why=why_not_connected(error.os_error)) from None
        except (aiohttp.ClientError, OSError) as error:
            raise NoUsableAnswer(url=self.url, why=str(error) or type(error).__name__) from None
