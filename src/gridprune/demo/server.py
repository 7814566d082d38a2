"""The page as a web server: Gradio behind a guard, with routes of our own for images and downloads.

Gradio's ways to upload and download go through files and tell the browser where they lie. Ours hold images in memory
and answer with tickets.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import PurePath
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from ..errors import ImageError
from ..runtime.ask import Loaded
from .engine import Engine
from .export import save
from .limits import MAX_BYTES, MAX_VIDEO, MAX_WAITING, Guard, Inbox, read_upload, read_video_upload
from .page import Page, head, theme
from .samples import samples
from .session import Session, Sessions
from .view import static

_PATHS = ("/", "/config", "/theme.css", "/image", "/video", "/favicon.ico", "/manifest.json", "/robots.txt")
_PREFIXES = (
    *("/assets/", "/static/", "/svelte/", "/save/"),
    *("/gradio_api/queue/", "/gradio_api/heartbeat/", "/gradio_api/startup-events", "/gradio_api/run/"),
    *("/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/app_id"),
)


def make_app(loaded: Loaded, host: str = "127.0.0.1") -> Any:
    """The ASGI application for one model, which listens on `host`."""
    engine, inbox = Engine(loaded), Inbox()
    decoding = asyncio.Lock()  # one video at a time: it may take all cores
    sessions = Sessions(lambda: Session(samples(engine.embedded)))
    app = FastAPI(title="gridprune", docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/image")
    async def upload(request: Request, name: str = "image") -> Response:
        try:
            image = await run_in_threadpool(read_upload, await request.body())
        except ImageError as error:
            return JSONResponse({"problem": str(error)}, status_code=422)
        return JSONResponse({"ticket": inbox.put(_shown_name(name), [image])})

    @app.post("/video")
    async def upload_video(request: Request, name: str = "video") -> Response:
        if engine.no_video:
            return JSONResponse({"problem": engine.no_video}, status_code=422)
        try:
            data = await request.body()
            async with decoding:
                video = await run_in_threadpool(read_video_upload, data)
        except ImageError as error:
            return JSONResponse({"problem": str(error)}, status_code=422)
        return JSONResponse({"ticket": inbox.put(_shown_name(name), video)})

    @app.get("/save/{key}/gridprune.{ending}")
    async def download(key: str, ending: str) -> Response:
        session = sessions.by_key(key)
        saved = None if session is None else await run_in_threadpool(save, engine, session.conversation, ending)
        if saved is None:
            return Response("There is nothing to save: ask a question first.", status_code=404)
        headers = {"content-disposition": f'attachment; filename="gridprune.{ending}"', "cache-control": "no-store"}
        return Response(saved[0], media_type=saved[1], headers=headers)

    blocks = Page(engine, sessions, inbox, remembers=not engine.embedded).build()
    blocks.queue(max_size=MAX_WAITING, default_concurrency_limit=1, api_open=False)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=theme(),
        css=static("page.css") + static("gradio.css"),
        head=head(),
        footer_links=[],
        run_history=False,
        show_error=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        max_file_size=1,
    )
    return Guard(app, _PATHS, _PREFIXES, {"/image": MAX_BYTES, "/video": MAX_VIDEO.size}, host)


def _shown_name(name: str) -> str:
    """The last part of a file's name, as long as the page shows it."""
    return PurePath(name.replace("\\", "/")).name[:60] or "image"


def serve(app: Any, where: socket.socket) -> None:
    """Answer requests until the process is interrupted."""
    quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
    config = uvicorn.Config(app, timeout_graceful_shutdown=1, **quiet)
    uvicorn.Server(config).run(sockets=[where])
