"""A hub on this machine: repositories in memory, HEAD and GET with Range, connections that break on purpose.

As on the real one, large files (here: safetensors) lie on another host, to which HEAD's answer points.
"""

from __future__ import annotations

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def etag(content: bytes, name: str) -> str:
    """The hub's checksum: sha256 of large files, git's hash of small ones; here by ending."""
    if name.endswith(".safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class FakeHub:
    """A running server.

    Attributes:
        files: contents by "owner/name/file".
        requests: what was asked, as (method, file, Range).
        break_after: bytes after which the next GET of a file loses its connection.
        stall_after: bytes after which it goes silent.
        lie: files whose content is not what HEAD announced.
    """

    def __init__(self, files: dict[str, bytes]):
        self.files, self.requests, self.lie = files, [], set()
        self.break_after, self.stall_after = {}, {}
        self.closing = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def _answer(self, body: bytes, status: int = 200, headers: dict | None = None, send: bool = True):
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                if send:
                    self.wfile.write(body)

            def _file(self) -> tuple[str, str] | None:
                match = re.fullmatch(r"/([^/]+/[^/]+)/(?:resolve|large)/([^/]+)/(.+)", self.path)
                key = match and f"{match[1]}/{match[3]}"
                return (key, match[2]) if key in hub.files else None

            def do_HEAD(self):
                found = self._file()
                if not found:
                    return self._answer(b"", 404, {"X-Error-Code": "EntryNotFound"}, send=False)
                key, revision = found
                hub.requests.append(("HEAD", key, None))
                content = hub.files[key]
                headers = {"ETag": f'"{etag(content, key)}"', "X-Repo-Commit": revision, "Accept-Ranges": "bytes",
                           "Content-Length": str(len(content))}  # fmt: skip
                if not key.endswith(".safetensors"):
                    return self._answer(b"", headers=headers, send=False)
                away = f"http://localhost:{hub.server.server_port}" + self.path.replace("/resolve/", "/large/")
                headers |= {"Location": away, "ETag": '"of the redirect"', "Content-Length": "0",
                            "X-Linked-ETag": headers["ETag"], "X-Linked-Size": str(len(content))}  # fmt: skip
                self._answer(b"", 302, headers, send=False)

            def do_GET(self):
                found = self._file()
                if not found:
                    return self._answer(b"", 404)
                key, span = found[0], self.headers.get("Range")
                if key.endswith(".safetensors") != ("/large/" in self.path):
                    return self._answer(b"", 404)
                hub.requests.append(("GET", key, span))
                content = hub.files[key]
                if key in hub.lie:
                    content = content[:-1] + bytes([content[-1] ^ 1])
                start = int(re.fullmatch(r"bytes=(\d+)-", span)[1]) if span else 0
                headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if span else {}
                rest = content[start:]
                stall = hub.stall_after.pop(key, None)
                limit = hub.break_after.pop(key, stall)
                if limit is None:
                    return self._answer(rest, 206 if span else 200, headers)
                self.send_response(206 if span else 200)
                for name, value in {"Content-Length": str(len(rest)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(rest[:limit])
                self.wfile.flush()
                if stall is not None:
                    hub.closing.wait(60)
                self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def gets(self, name: str) -> list[str | None]:
        """The Range of every GET of a file, in order."""
        return [span for method, key, span in self.requests if method == "GET" and key.endswith(name)]

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
