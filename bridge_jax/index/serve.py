"""Serve the page of an index over HTTP. It answers on this machine alone, unless it is given a token.

    GET  /                   the page, with /page.css and /page.js
    GET  /about              the photos, folders and checkpoint of the index
    GET  /search?q=          the answer to a text; ?like=ID to a photo of the index, ?photo=KEY to an uploaded one
    GET  /newest             the photos of the latest days
    POST /photo              bytes of a photo -> the KEY under which its embedding is kept for a while
    GET  /photo/ID           a photo of the index, as it lies in its file; /thumbnail/ID small
    GET  /attention/ID?q=    where each word of the text looks on the photo

A photo is named by the hash of its bytes, never by a path, and its bytes must still have that hash: nothing else can be
read. A wrong request gets 400, 401, 404 or 413 with a line of JSON that says why.
"""

import collections
import hashlib
import secrets
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from bridge_jax.config import ConfigError
from bridge_jax.data import encode
from bridge_jax.index import attention, page, query, script, style
from bridge_jax.index.query import Answer, Filter, Search
from bridge_jax.index.store import Photo

QUERY_CHARACTERS, UPLOAD_BYTES = 500, 40_000_000
MOST_HITS, THUMBNAIL_PX, THUMBNAILS, UPLOADS, TIMES = 100, 400, 500, 64, 200
LOOPBACK = ("127.0.0.1", "localhost")
TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp", ".bmp": "image/bmp",
         ".gif": "image/gif", ".tif": "image/tiff", ".tiff": "image/tiff", ".heic": "image/heic",
         ".heif": "image/heif", ".avif": "image/avif"}  # fmt: skip
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}  # a hash never names other bytes


class Server:
    """The answers of one index, as its last build left it. JAX runs one request at a time."""

    def __init__(self, search: Search, say: Callable[[str], None]):
        self._search, self._say, self._stale = search, say, ""
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._uploads: collections.OrderedDict[str, np.ndarray] = collections.OrderedDict()
        self._thumbnails: collections.OrderedDict[str, bytes] = collections.OrderedDict()
        self._times: collections.deque[float] = collections.deque(maxlen=TIMES)

    def _newest(self) -> Search:
        """Return the search of the newest index; where that cannot be opened, of the one before, and say so once."""
        with self._opening:
            try:
                newest, stale = query.newest(self._search), ""
            except (ConfigError, OSError, ValueError, LookupError) as error:
                newest, stale = self._search, f"the index was built anew and cannot be opened: {error}"
            if newest is not self._search:
                self._say(f"{len(newest.index.photos)} photos in the newer index")
            elif stale and stale != self._stale:
                self._say(f"{stale}; the one before goes on answering")
            self._search, self._stale = newest, stale
            return newest

    def about(self, request: Request) -> Response:
        """Answer with what the page shows before a query; `stale` says why it is not of the newest index."""
        search = self._newest()
        index, model = search.index, search.model
        photos = index.photos.values()
        folders = {parent.as_posix() for photo in photos for parent in Path(photo.path).parents} - {"."}
        dates = sorted(photo.date for photo in photos)
        return JSONResponse(
            {
                "photos": len(photos),
                "folders": sorted(map(_text, folders)),
                "dates": [dates[0], dates[-1]] if dates else [],
                "reranks": model.bridged,
                "refuses": search.refusal is not None,
                "stale": _text(self._stale),
                "squash": model.cfg.data.squash,
                "checkpoint": f"{model.workdir.name}, step {model.step}",
                "root": _text(index.manifest.photos),
            }
        )

    def search(self, request: Request) -> Response:
        """Answer a query. `rerank=0` leaves the bridge out; `folder`, `since` and `until` filter; `n` photos come."""
        given = request.query_params
        n = _number(given.get("n", "24"), 1, MOST_HITS)
        where = _filter(request)
        named = [name for name in ("q", "like", "photo") if name in given]
        if len(named) != 1:
            raise ConfigError("expected one of q, like and photo")
        search = self._newest()
        with self._lock:
            if named == ["q"]:
                rerank = given.get("rerank", "1") != "0"
                answer = search.text(_short(given["q"]), k=MOST_HITS, rerank=rerank, where=where)
            elif named == ["like"]:
                row = _photo(search, given["like"]).row
                answer = search.like(np.asarray(search.index.embeddings[row]), k=n, where=where)
            else:
                answer = search.like(self._upload(given["photo"]), k=n, where=where)
            return JSONResponse(self._timed(answer, n))

    def newest(self, request: Request) -> Response:
        """Answer with the photos of the latest days, before anything is asked."""
        n, where = _number(request.query_params.get("n", "24"), 1, MOST_HITS), _filter(request)
        kept = [photo for photo in self._newest().index.photos.values() if where.keeps(photo)]
        first = sorted(sorted(kept, key=lambda photo: photo.path), key=lambda photo: photo.date, reverse=True)[:n]
        hits = [{"id": photo.id, "path": _text(photo.path), "date": photo.date, "gone": False} for photo in first]
        return JSONResponse({"hits": hits, "matches": None})

    def _timed(self, answer: Answer, n: int) -> dict[str, Any]:
        self._times.append(answer.ms["all"])
        p50, p95 = np.percentile(self._times, (50, 95)).tolist()
        record = query.record(answer)
        return record | {"hits": record["hits"][:n], "p50": p50, "p95": p95, "queries": len(self._times)}

    async def upload(self, request: Request) -> Response:
        """Embed an uploaded photo and answer with its key."""
        if not request.headers.get("content-type", "").startswith(("image/", "application/octet-stream")):
            raise ConfigError("expected a photo: the content type is image/... or application/octet-stream")
        encoded = bytearray()
        async for part in request.stream():
            encoded += part
            if len(encoded) > UPLOAD_BYTES:
                raise HTTPException(413, f"a photo has at most {UPLOAD_BYTES // 1_000_000} MB")
        return await run_in_threadpool(self._embed, bytes(encoded))

    def _embed(self, encoded: bytes) -> Response:
        with self._lock:
            key = hashlib.sha256(encoded).hexdigest()[:16]
            self._uploads[key] = self._search.embed(encoded)
            while len(self._uploads) > UPLOADS:
                self._uploads.popitem(last=False)
        return JSONResponse({"photo": key})

    def original(self, request: Request) -> Response:
        """Answer with the bytes of a photo."""
        search = self._newest()
        photo = _photo(search, request.path_params["id"])
        kind = TYPES[Path(photo.path).suffix.lower()]
        return Response(_read(search, photo), media_type=kind, headers=FOREVER)

    def thumbnail(self, request: Request) -> Response:
        """Answer with a photo as a small WebP file."""
        search = self._newest()
        photo = _photo(search, request.path_params["id"])
        if (small := self._thumbnails.get(photo.id)) is None:
            small = self._thumbnails[photo.id] = encode.thumbnail(_read(search, photo), THUMBNAIL_PX)
            while len(self._thumbnails) > THUMBNAILS:
                self._thumbnails.popitem(last=False)
        return Response(small, media_type="image/webp", headers=FOREVER)

    def attention(self, request: Request) -> Response:
        """Answer with the words of a text, and the attention of each over the square that the model saw."""
        search = self._newest()
        photo = _photo(search, request.path_params["id"])
        with self._lock:
            (lower,), (there,) = search.lower([photo])
            if not there:
                raise HTTPException(404, f"{_text(photo.path)} is gone since the index was built")
            words = attention.of_words(search.model, _short(request.query_params.get("q", "")), lower)
        return JSONResponse({"words": words})

    def _upload(self, key: str) -> np.ndarray:
        if key not in self._uploads:
            raise HTTPException(404, "the uploaded photo is not kept any more: drop it again")
        return self._uploads[key]


def app(
    search: Search, *, hosts: tuple[str, ...] = LOOPBACK, token: str = "", say: Callable[[str], None] = print
) -> Starlette:
    """Return the application. It answers under the names `hosts` alone; with `token`, to those who know it.

    `say` is told of a newer index.
    """
    server = Server(search, say)
    static = {"/": (page.HTML, "text/html"), "/page.css": (style.CSS, "text/css"),
              "/page.js": (script.JS, "text/javascript")}  # fmt: skip
    routes = [Route(path, _static(text, kind)) for path, (text, kind) in static.items()]
    routes += [
        Route("/about", server.about),
        Route("/search", server.search),
        Route("/newest", server.newest),
        Route("/photo", server.upload, methods=["POST"]),
        Route("/photo/{id}", server.original),
        Route("/thumbnail/{id}", server.thumbnail),
        Route("/attention/{id}", server.attention),
    ]
    made = Starlette(
        routes=routes,
        middleware=[
            Middleware(BaseHTTPMiddleware, dispatch=_with_headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=[*hosts], www_redirect=False),
            Middleware(BaseHTTPMiddleware, dispatch=_guard(token)),
        ],
        exception_handlers={ConfigError: _refuse, HTTPException: _refuse},
    )
    made.router.redirect_slashes = False
    return made


Next = Callable[[Request], Awaitable[Response]]


def _static(text: str, kind: str) -> Callable[[Request], Response]:
    return lambda request: Response(text, media_type=kind, headers={"Cache-Control": "no-cache"})


async def _with_headers(request: Request, call_next: Next) -> Response:
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


def _guard(token: str) -> Callable[[Request, Next], Awaitable[Response]]:
    """Let a request pass that has the token in a cookie or as a bearer; `?token=` sets the cookie."""
    expected = token.encode()

    async def dispatch(request: Request, call_next: Next) -> Response:
        def knows(given: str) -> bool:
            return secrets.compare_digest(given.encode("utf-8", "surrogateescape"), expected)

        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not token or knows(request.cookies.get("token", "")) or knows(bearer):
            return await call_next(request)
        if request.url.path == "/" and knows(request.query_params.get("token", "")):
            response = RedirectResponse("/", 303)
            response.set_cookie("token", token, httponly=True, samesite="strict")
            return response
        return JSONResponse({"error": "open the address that the server printed, which has the token"}, 401)

    return dispatch


def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    return JSONResponse({"error": str(error)}, 400)


def _photo(search: Search, id_: str) -> Photo:
    if id_ not in search.index.by_id:
        raise HTTPException(404, "the index has no such photo")
    return search.index.by_id[id_]


def _read(search: Search, photo: Photo) -> bytes:
    """Return the bytes of a photo, if they are those that were indexed."""
    try:
        encoded = search.index.file(photo).read_bytes()
    except OSError as error:
        raise HTTPException(404, f"{_text(photo.path)} is gone since the index was built") from error
    if not hashlib.sha256(encoded).hexdigest().startswith(photo.id):
        raise HTTPException(404, f"{_text(photo.path)} has changed since the index was built: build it again")
    return encoded


def _filter(request: Request) -> Filter:
    return Filter(*(request.query_params.get(name, "") for name in ("folder", "since", "until")))


def _short(text: str) -> str:
    if len(text) > QUERY_CHARACTERS:
        raise ConfigError(f"the query has {len(text)} characters: at most {QUERY_CHARACTERS} are read")
    return text


def _number(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9 and least <= int(text) <= most):
        raise ConfigError(f"n is a number from {least} to {most}")
    return int(text)


def _text(path: str) -> str:
    return path.encode(errors="replace").decode()
