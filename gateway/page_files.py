"""The built pages: read once, answered from memory, so that no path leads anywhere else."""

import hashlib
import mimetypes
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from gateway.headers import PAGE_POLICY

INDEX: Final = "index.html"
PAGES: Final = frozenset({"", "account", "admin", "devices", "email", "forgot", "invite", "login", "reset"})
"""First parts of the paths that the one page answers; what follows is its own business."""

ASSETS: Final = "assets/"
"""Names in this folder bear a hash of what is in them."""
YEAR: Final = "public, max-age=31536000, immutable"

PAGE_ROUTE: Final = SimpleNamespace(path="pages")
"""One series of the metrics for all of them."""

WORTH_PACKING: Final = 1_024
MEDIA_TYPES: Final = {".webmanifest": "application/manifest+json", ".js": "text/javascript", ".woff2": "font/woff2"}


@dataclass(frozen=True, slots=True)
class File:
    body: bytes
    packed: bytes | None
    """By gzip, where that is worth it."""
    headers: Mapping[str, str]

    @classmethod
    def of(cls, name: str, body: bytes) -> "File":
        media_type = MEDIA_TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
        text = media_type.startswith("text/") or media_type.endswith(("json", "xml", "javascript"))
        packed = _gzip(body) if text and len(body) > WORTH_PACKING else None
        return cls(
            body,
            packed,
            {
                "Content-Type": f"{media_type}; charset=utf-8" if text else media_type,
                "Cache-Control": YEAR if name.startswith(ASSETS) else "no-cache",
                "ETag": f'W/"{hashlib.sha256(body).hexdigest()[:20]}"',
                "Content-Security-Policy": PAGE_POLICY.decode(),
                "Vary": "Accept-Encoding",
            },
        )

    def answer(self, request: Request) -> Response:
        headers = dict(self.headers)
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        body = self.body
        if self.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            body = self.packed
            headers["Content-Encoding"] = "gzip"
        return Response(body, headers=headers)


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return packer.compress(body) + packer.flush()


class PageFiles:
    """Of a folder, as it was when the gateway started; an empty name has none."""

    def __init__(self, folder: str) -> None:
        self._files = _read(Path(folder)) if folder else {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The router's last resort: what no route has is a page, or not there."""
        if scope["type"] != "http":
            return
        await self._answer(Request(scope))(scope, receive, send)

    def _answer(self, request: Request) -> Response:
        path = request.scope["path"].removeprefix("/")
        if request.method not in {"GET", "HEAD"}:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        if path == "" and self._files and request.headers.get("host", "").startswith("admin."):
            return RedirectResponse("/admin", HTTPStatus.TEMPORARY_REDIRECT)
        file = self._files.get(INDEX if path.partition("/")[0] in PAGES else path)
        if file is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        request.scope["route"] = PAGE_ROUTE
        return file.answer(request)


def _read(folder: Path) -> dict[str, File]:
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"BRIGADE_GATEWAY_PAGES: there is no {INDEX} in {folder}; scripts/up builds the pages")
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {name: File.of(name, path.read_bytes()) for path in found if (name := path.relative_to(folder).as_posix())}
