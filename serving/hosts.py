"""Which names the page answers to.

A site elsewhere can point a name of its own at this machine (DNS rebinding); the browser then takes the page's answers
for that site's. Its requests still carry the site's name as their Host, and are refused.
"""

import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.reply import answer

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/@\[\]]+)(:\d{0,5})?", re.ASCII)
_SHOWN = 100


def host_name(text: str) -> str:
    """The name in a Host header, without its port; "" if there is none.

    >>> host_name("LocalHost:8080"), host_name("[::1]:8080"), host_name("::1"), host_name("a b")
    ('localhost', '[::1]', '[::1]', '')
    """
    text = text.lower()
    match = _HOST.fullmatch(f"[{text}]" if text.count(":") > 1 and text[0] != "[" else text)
    return match[1] if match else ""


class AllowedHosts:
    """Lets those requests through that name a host which the page answers to; the others get a 400 that says so.

    Args:
        hosts: as `host_name` gives them.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app, self._hosts = app, tuple(dict.fromkeys(filter(None, hosts)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        named = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(named) == 1 and host_name(named[0]) in self._hosts:
            await self._app(scope, receive, send)
            return
        wanted = (
            f"this page answers to {', '.join(self._hosts)} alone (start it with --allowed-host NAME for another name)"
        )
        await answer({"message": f"Host {', '.join(named)[:_SHOWN] or 'is missing'}: {wanted}"}, 400)(
            scope, receive, send
        )
