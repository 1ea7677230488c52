"""The part of S3 that Arrow's client speaks, over HTTP on this machine, in memory."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"
_XML = '<?xml version="1.0" encoding="UTF-8"?>'
_NAMES = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


class S3Server(ThreadingHTTPServer):
    """Objects of one bucket by key; `refused` is a status that every request gets."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.refused: int | None = None
        self.requests: list[str] = []

    @property
    def endpoint(self) -> str:
        """Its address, for `endpoint_override`."""
        return f"127.0.0.1:{self.server_address[1]}"


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A running server."""
    server = S3Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # one packet for an answer
    server: S3Server

    def handle_expect_100(self) -> bool:
        """The client waits for this answer before it sends the body."""
        going_on = super().handle_expect_100()
        self.wfile.flush()
        return going_on

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""

    def _answer(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        given = {"Content-Length": str(len(body)), **(headers or {})}
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _asked(self) -> tuple[str, dict[str, str], bytes] | None:
        """Key, query and body of a request that is not refused."""
        parts = urlsplit(self.path)
        _, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = {n: v[0] for n, v in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self._body()
        self.server.requests.append(f"{self.command} {self.path}")
        if self.server.refused is None:
            return key, query, body
        code = {403: "AccessDenied", 503: "SlowDown"}[self.server.refused]
        self._answer(self.server.refused, f"<Error><Code>{code}</Code></Error>".encode())
        return None

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = self._chunks()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        found = b""  # chunks again, each with its size in front, and checksums behind
        while data:
            size, _, data = data.partition(b"\r\n")
            length = int(size.split(b";")[0], 16)
            if not length:
                break
            found, data = found + data[:length], data[length + 2 :]
        return found

    def _chunks(self) -> bytes:
        found = b""
        while length := int(self.rfile.readline().split(b";")[0], 16):
            found += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def do_HEAD(self) -> None:
        self._read()

    def do_GET(self) -> None:
        self._read()

    def _read(self) -> None:
        asked = self._asked()
        if asked is None:
            return
        key, query, _ = asked
        if not key:
            self._answer(200, self._listed(query) if self.command == "GET" else b"")
            return
        if key not in self.server.objects:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        data, changed = self.server.objects[key]
        headers = {"Last-Modified": formatdate(changed, usegmt=True), "ETag": '"x"'}
        wanted = self.headers.get("Range")
        if wanted is None:
            headers["Content-Length"] = str(len(data))
            self._answer(200, data, headers)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last or len(data) - 1), len(data) - 1)
        headers["Content-Range"] = f"bytes {start}-{stop}/{len(data)}"
        self._answer(206, data[start : stop + 1], headers)

    def _listed(self, query: dict[str, str]) -> bytes:
        prefix, parted = query.get("prefix", ""), query.get("delimiter")
        found, folders = [], set()
        for key, (data, changed) in sorted(self.server.objects.items()):
            if not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if parted and parted in rest:
                folders.add(prefix + rest.partition(parted)[0] + parted)
                continue
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(changed))
            found.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified>"
                f"<Size>{len(data)}</Size></Contents>"
            )
        common = [
            f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>"
            for f in sorted(folders)
        ]
        count = len(found) + len(common)
        return (
            f"{_XML}<ListBucketResult {_NAMES}><IsTruncated>false</IsTruncated>"
            f"<KeyCount>{count}</KeyCount>{''.join(found)}{''.join(common)}</ListBucketResult>"
        ).encode()

    def do_PUT(self) -> None:
        asked = self._asked()
        if asked is None:
            return
        key, query, body = asked
        source = self.headers.get("x-amz-copy-source")
        if source is not None:
            data, _ = self.server.objects[unquote(source).lstrip("/").partition("/")[2]]
            self.server.objects[key] = data, time.time()
            self._answer(200, f"{_XML}<CopyObjectResult {_NAMES}/>".encode())
            return
        if "uploadId" in query:
            self.server.uploads[query["uploadId"]][int(query["partNumber"])] = body
        else:
            self.server.objects[key] = body, time.time()
        self._answer(200, headers={"ETag": '"x"'})

    def do_POST(self) -> None:
        asked = self._asked()
        if asked is None:
            return
        key, query, body = asked
        if "uploads" in query:
            number = str(len(self.server.requests))
            self.server.uploads[number] = {}
            tag, text = "InitiateMultipartUploadResult", f"<UploadId>{number}</UploadId>"
        elif "uploadId" in query:
            parts = self.server.uploads.pop(query["uploadId"])
            data = b"".join(part for _, part in sorted(parts.items()))
            self.server.objects[key] = data, time.time()
            tag, text = "CompleteMultipartUploadResult", f"<Key>{escape(key)}</Key>"
        else:
            for gone in body.decode().split("<Key>")[1:]:
                self.server.objects.pop(gone.partition("</Key>")[0], None)
            tag, text = "DeleteResult", ""
        self._answer(200, f"{_XML}<{tag} {_NAMES}>{text}</{tag}>".encode())

    def do_DELETE(self) -> None:
        asked = self._asked()
        if asked is not None:
            self.server.uploads.pop(asked[1].get("uploadId", ""), None)
            self.server.objects.pop(asked[0], None)
            self._answer(204)
