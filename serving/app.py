"""The reference consumer: the newest list of every user over REST, and a live page.

    python -m serving.app --port 8080 [--host 127.0.0.1] [--bootstrap_servers HOST:PORT] [--SETTING VALUE ...]

    GET /recommendations/USER   the user's newest list, or 404
    GET /users?k=20             the users whose lists came last
    GET /status                 counts, rates, model versions, rejected records; the processes of a local stack
    GET /                       the page

Where `STACK_RUN_DIR` names the folder of a local stack, its processes are shown, and how often each had to be started again.
"""

import argparse
import base64
import hashlib
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from jobs.settings import load_or_exit
from model.schema import encode_json
from serving.follow import Follower
from serving.processes import read_processes
from serving.store import Store

PAGE = Path(__file__).with_name("page.html")
MOST_USERS = 200
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def make_app(store: Store, run_dir: Path | None = None) -> Starlette:
    """The REST interface and the page over a store.

    Args:
        run_dir: the folder of the local stack that the page is part of.
    """
    page = PAGE.read_text()
    app = Starlette(routes=[
        Route("/", show_page),
        Route("/recommendations/{user_id:path}", show_list),
        Route("/users", show_users),
        Route("/status", show_status),
    ])  # fmt: skip
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
    user_id = request.path_params["user_id"]
    newest = request.app.state.store.list_of(user_id)
    if newest is None:
        return answer({"message": f"no list for user {user_id}: none has come yet, or it had to make room for newer ones"}, 404)
    return answer(newest)


async def show_users(request: Request) -> Response:
    k = request.query_params.get("k", "20")
    if not k.isdecimal() or not 1 <= int(k) <= MOST_USERS:
        return answer({"message": f"k={k}: a number from 1 to {MOST_USERS} is wanted (default 20)"}, 400)
    return answer(request.app.state.store.users(int(k)))


async def show_status(request: Request) -> Response:
    state = request.app.state
    return answer(state.store.status() | {"processes": read_processes(state.run_dir)})


def answer(value: Any, status: int = 200) -> Response:
    return Response(encode_json(value), status, HEADERS, media_type="application/json")


def port(text: str) -> int:
    """A port's number, for argparse."""
    if not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text}: a number from 1 to 65535 is wanted (default 8080)")
    return int(text)


def arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Where to listen, and the words that are settings."""
    parser = argparse.ArgumentParser("serving.app", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine alone)")
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
    run_dir = os.environ.get("STACK_RUN_DIR")
    uvicorn.run(make_app(store, Path(run_dir) if run_dir else None), host=place.host, port=place.port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1:])
