"""Starting the page: what is switched off, where it listens, and what every answer carries."""

from __future__ import annotations

import logging
import os
import signal
import socket
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from gap3d_app.errors import InputError
from gap3d_app.modes import LOW_VRAM
from gap3d_app.prompt import MAX_FILE_BYTES
from gap3d_app.sources.offers import Offer, offers
from gap3d_app.ui import gpu, texts
from gap3d_app.ui.page import build_page
from gap3d_app.ui.theme import STYLE, theme
from gap3d_app.ui.workdir import WorkDir


def launch(
    host: str | None = None, port: int | None = None, weights: str = "gap3d-mini", low_vram: bool = False,
    compile: bool = True,
) -> None:  # fmt: skip
    """Serve the page until the process is stopped.

    Args:
        host: address to listen on; None means 127.0.0.1, on a Hugging Face Space all addresses.
        port: port; None means 7860.
        weights: what is offered first, as for `Gap3DPipeline.from_pretrained`; other weights that are here follow.
        low_vram: keep networks off the graphics card but for their stage; by itself where they do not fit.
        compile: compile full-size flow networks for the graphics card at their first run.

    Raises:
        InputError: GRADIO_VIBE_MODE is set, or the port is taken.
        WeightsError: public weights that do not make a pipeline.
    """
    refuse_vibe_mode()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")

    device, memory = gpu.place(low_vram)

    def load(offer: Offer) -> Any:
        from gap3d_app.pipeline import Gap3DPipeline

        return Gap3DPipeline.from_pretrained(offer.names, device=device, memory=memory, compile=compile).preload()

    everywhere = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"
    host = host or os.environ.get("GRADIO_SERVER_NAME") or everywhere
    port = port or int(os.environ.get("GRADIO_SERVER_PORT") or 7860)
    _require_free(host, port)
    work = WorkDir()

    here = os.getpid()

    def stop(*_: Any) -> None:
        # At once: leaving by an exception would tear down the interpreter under threads that compute.
        if os.getpid() == here:
            work.close()
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    card = torch.cuda.is_available()
    low = memory == LOW_VRAM
    page = build_page(
        offers(weights), load, work, device="cuda" if card else "cpu", copied=card and low,
        compiled=card and compile and not low,
    )  # fmt: skip
    launch_page(page, host, port)


def _require_free(host: str, port: int) -> None:
    """Ask before the model begins to load."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if os.name == "posix":  # as the server itself does: a port that was just left may be taken again
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"The page cannot listen on {host}:{port} ({reason}); choose another.") from error


def launch_page(page: gr.Blocks, host: str = "127.0.0.1", port: int | None = None, *, block: bool = True) -> str:
    """Serve a page made by `build_page`; returns its local address (at once with block=False)."""
    refuse_vibe_mode()
    # Gradio asks its own address whether it is up; a proxy must not get that request.
    if not os.environ.get("no_proxy") and not os.environ.get("NO_PROXY"):
        os.environ["no_proxy"] = "localhost,127.0.0.1,0.0.0.0"
    _, address, _ = page.launch(
        server_name=host, server_port=port, prevent_thread_lock=True, share=False, ssr_mode=False,
        enable_monitoring=False, mcp_server=False, run_history=False, pwa=False, show_error=False, inbrowser=False,
        max_file_size=MAX_FILE_BYTES, footer_links=["api", "settings"], theme=theme(), css=STYLE,
        favicon_path=str(Path(__file__).with_name("favicon.png")),
        app_kwargs={"middleware": [_middleware(page.work)]}, quiet=True,
    )
    if block:
        print(texts.LISTENING.format(address=address), flush=True)
        page.block_thread()
    return address


def refuse_vibe_mode() -> None:
    """Gradio's vibe mode lets visitors run code on this machine."""
    if os.environ.get("GRADIO_VIBE_MODE"):
        raise InputError(texts.VIBE_MODE)


class Guard:
    """ASGI middleware: security headers, and the quota before every upload."""

    def __init__(self, app: Any, work: WorkDir) -> None:
        self.app, self.work = app, work

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on; see the class."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"].rstrip("/").endswith("/upload"):
            from anyio import to_thread

            await to_thread.run_sync(self.work.sweep)

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        await self.app(scope, receive, send_with_headers)


# No frame-options: a Space is shown inside a frame. The policy keeps the page to its own host.
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"content-security-policy",
     b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'"),
)


def _middleware(work: WorkDir) -> Any:
    from starlette.middleware import Middleware

    return Middleware(Guard, work=work)
