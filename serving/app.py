"""The reference consumer: the newest list of every user over REST, and a live page.

    python -m serving.app --port 8080 [--host 127.0.0.1] [--allowed-host NAME ...] [--bootstrap_servers HOST:PORT]
        [--SETTING VALUE ...]

    GET /recommendations?user=ID   the user's newest list, or 404; any id, such as `..`, once it is percent-encoded
    GET /recommendations/ID        the same, for an id that survives as a path
    GET /users?k=20                the users whose lists came last
    GET /status                    counts, rates, model versions, rejected records; the processes of a local stack
    GET /                          the page

Only requests for a name that the page answers to are served: loopback's names, that of `--host`, each `--allowed-host`.
Where `STACK_RUN_DIR` names the folder of a local stack, its processes are shown, and how often each had to be started
again.
"""

import argparse
import base64
import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from jobs.settings import load_or_exit, usage
from serving.follow import Follower
from serving.hosts import LOOPBACK, AllowedHosts, host_name
from serving.processes import read_processes
from serving.redact import shown
from serving.reply import HEADERS, answer
from serving.store import Store

PAGE = Path(__file__).with_name("page.html")
MOST_USERS = 200
_DIGITS = 9  # of a number in a query: more are no number that is wanted


def make_app(store: Store, hosts: Iterable[str] = LOOPBACK, run_dir: Path | None = None) -> Starlette:
    """The REST interface and the page over a store.

    Args:
        hosts: the names that it answers to, see serving/hosts.py.
        run_dir: the folder of the local stack that the page is part of.
    """
    page = PAGE.read_text()
    app = Starlette(routes=[
        Route("/", show_page),
        Route("/recommendations", show_list),
        Route("/recommendations/{user_id:path}", show_list),
        Route("/users", show_users),
        Route("/status", show_status),
    ], middleware=[Middleware(AllowedHosts, hosts=hosts)])  # fmt: skip
    app.state.store, app.state.run_dir = store, run_dir
    app.state.page, app.state.policy = page, content_policy(page)
    return app


def content_policy(page: str) -> str:
    """A policy under which the browser runs the page's own script and style, loads nothing else, and asks only us."""
    script, style = (_digest(re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]) for tag in ("script", "style"))
    return (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


async def show_page(request: Request) -> Response:
    state = request.app.state
    return Response(state.page, media_type="text/html", headers=HEADERS | {"Content-Security-Policy": state.policy})


async def show_list(request: Request) -> Response:
    user_id = request.path_params.get("user_id") or request.query_params.get("user")
    if not user_id:
        return answer({"message": "whose list? /recommendations?user=ID is wanted, the id percent-encoded"}, 400)
    store = request.app.state.store
    newest = store.list_of(user_id)
    if newest is not None:
        return answer(newest)
    if store.was_forgotten(user_id):
        return answer({"message": f"no list for user {user_id}: the user was forgotten"}, 404)
    return answer(
        {"message": f"no list for user {user_id}: none has come yet, or it had to make room for newer ones"}, 404
    )


async def show_users(request: Request) -> Response:
    k = request.query_params.get("k", "20")
    if not k.isdecimal() or len(k) > _DIGITS or not 1 <= int(k) <= MOST_USERS:
        return answer({"message": f"k={shown(k, 20)}: a number from 1 to {MOST_USERS} is wanted (default 20)"}, 400)
    return answer(request.app.state.store.users(int(k)))


async def show_status(request: Request) -> Response:
    state = request.app.state
    return answer(state.store.status() | {"processes": read_processes(state.run_dir)})


def port(text: str) -> int:
    """A port's number, for argparse."""
    if not text.isdecimal() or len(text) > _DIGITS or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text}: a number from 1 to 65535 is wanted (default 8080)")
    return int(text)


def allowed_host(text: str) -> str:
    """A name of this machine, for argparse."""
    if not host_name(text):
        raise argparse.ArgumentTypeError(
            f"{text}: a host name is wanted, as it stands in the page's address, such as shop.example"
        )
    return host_name(text)


def arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Where to listen, and the words that are settings."""
    parser = argparse.ArgumentParser("serving.app", description=__doc__, epilog=usage(), allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine alone)"
    )
    named = "a further name that the page answers to; may be given several times"
    parser.add_argument("--allowed-host", default=[], type=allowed_host, action="append", help=named)
    parser.add_argument("--port", default=8080, type=port, help="port to listen on (default 8080)")
    return parser.parse_known_args(argv)


def main(argv: list[str]) -> None:
    """Serve until stopped. A wrong setting is printed, with exit code 2."""
    place, words = arguments(argv)
    settings = load_or_exit(words, dict(os.environ))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what it has to say, serving.follow says once
    store = Store()
    Follower(store, settings).start()
    logging.getLogger("serving.app").info("the page is on http://%s:%d", place.host, place.port)
    hosts, run_dir = (*LOOPBACK, host_name(place.host), *place.allowed_host), os.environ.get("STACK_RUN_DIR")
    web = make_app(store, hosts, Path(run_dir) if run_dir else None)
    uvicorn.run(web, host=place.host, port=place.port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1:])
