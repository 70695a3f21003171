"""A Google Cloud Storage of this machine: whole objects with generations, nothing renamed, appended to or locked.

It speaks as much of the JSON API as gcsfs and TensorStore do, and keeps everything in memory.
"""

import email
import itertools
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit


class Stored(NamedTuple):
    """One version of an object."""

    data: bytes
    generation: int


class Server(ThreadingHTTPServer):
    """Serves while entered; `objects` is what it holds, by bucket and name."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[tuple[str, str], Stored] = {}
        self.uploads: dict[str, tuple[str, str, bytearray]] = {}
        self.generations, self.lock = itertools.count(1), threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """By which gcsfs and TensorStore find it."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }

    def __enter__(self) -> "Server":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.shutdown()
        self.server_close()

    def names(self, prefix: str = "") -> list[str]:
        """`bucket/name` of all objects."""
        return sorted(name for at in self.objects if (name := "/".join(at)).startswith(prefix))

    def put(self, at: tuple[str, str], data: bytes, only_if: str | None = None) -> Stored | None:
        """Writes an object; None where it has another generation than asked for, 0 being that of none."""
        with self.lock:
            held = self.objects.get(at)
            if only_if is not None and int(only_if) != (held.generation if held else 0):
                return None
            self.objects[at] = Stored(data, next(self.generations))
            return self.objects[at]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = 1 << 16, True  # head and body leave together, at once
    server: Server

    def log_message(self, *arguments) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def _asked(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        return parts.path, {name: values[0] for name, values in parse_qs(parts.query, True).items()}

    def _reply(self, status: int, body: bytes | dict = b"", **headers: str) -> None:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        self.send_response(status)
        kind = "application/json" if isinstance(body, dict) else "application/octet-stream"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _about(self, at: tuple[str, str], stored: Stored) -> dict:
        bucket, name = at
        return {
            "kind": "storage#object",
            **{"bucket": bucket, "name": name, "size": str(len(stored.data)), "generation": str(stored.generation)},
            **{"metageneration": "1", "timeCreated": "2026-01-01T00:00:00.000Z", "updated": "2026-01-01T00:00:00.000Z"},
            "mediaLink": f"{self.server.url}/download/storage/v1/b/{bucket}/o/{name}?alt=media",
        }

    def do_GET(self) -> None:
        path, query = self._asked()
        if re.fullmatch(r"/storage/v1/b/[^/]+(/storageLayout)?", path):
            return self._reply(200, {"name": path.split("/")[4], "hierarchicalNamespace": {"enabled": False}})
        if found := re.fullmatch(r"/storage/v1/b/([^/]+)/o/?", path):
            return self._list(found[1], query)
        _, bucket, name = re.fullmatch(r"(/download)?/storage/v1/b/([^/]+)/o/(.+)", path).groups()
        at = bucket, unquote(name)
        if (stored := self.server.objects.get(at)) is None:
            return self._reply(404, {"error": {"code": 404, "message": "no such object"}})
        if "ifGenerationNotMatch" in query and int(query["ifGenerationNotMatch"]) == stored.generation:
            return self._reply(304)
        if "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != stored.generation:
            return self._reply(412)
        if query.get("alt") != "media":
            return self._reply(200, self._about(at, stored))
        data, status, headers = stored.data, 200, {"x_goog_generation": str(stored.generation)}
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            begin, end = int(found[1]), int(found[2] or len(data) - 1)
            if begin >= len(data):
                return self._reply(416)
            headers["Content_Range"] = f"bytes {begin}-{min(end, len(data) - 1)}/{len(data)}"
            data, status = data[begin : end + 1], 206
        return self._reply(status, data, **headers)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, prefixes = [], set()
        for at, stored in sorted(self.server.objects.items()):
            if at[0] != bucket or not at[1].startswith(prefix) or at[1] < query.get("startOffset", ""):
                continue
            rest = at[1][len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(self._about(at, stored))
        self._reply(200, {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def do_POST(self) -> None:
        path, query = self._asked()
        if path.startswith("/resumable/"):
            return self.do_PUT()
        body = self._body()
        if found := re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.+)/(?:rewriteTo|copyTo)/b/([^/]+)/o/(.+)", path):
            bucket, name, to, target = map(unquote, found.groups())
            if (bucket, name) not in self.server.objects:
                return self._reply(404, {"error": {"code": 404, "message": "no such object"}})
            about = self._about((to, target), self.server.put((to, target), self.server.objects[bucket, name].data))
            return self._reply(200, {"done": True, "resource": about})
        if path.rstrip("/") == "/storage/v1/b":
            return self._reply(409, {"error": {"code": 409, "message": "the bucket is there already"}})
        if not (found := re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o/?", path)):
            return self._reply(400, {"error": {"code": 400, "message": f"{path} is not known here"}})
        bucket = found[1]
        kind, name = query["uploadType"], query.get("name")
        if kind == "multipart":
            message = email.message_from_bytes(
                b"Content-Type: " + self.headers["Content-Type"].encode() + b"\n\n" + body
            )
            about, content = (part.get_payload(decode=True) for part in message.get_payload())
            name, body = json.loads(about)["name"], _between(self.headers["Content-Type"], body, content)
        elif kind == "resumable":
            number, name = str(next(self.server.generations)), name or json.loads(body)["name"]
            self.server.uploads[number] = bucket, name, bytearray()
            return self._reply(200, {}, Location=f"{self.server.url}/resumable/{number}")
        return self._stored((bucket, name), body, query.get("ifGenerationMatch"))

    def _stored(self, at: tuple[str, str], data: bytes, only_if: str | None = None) -> None:
        stored = self.server.put(at, data, only_if)
        return self._reply(412) if stored is None else self._reply(200, self._about(at, stored))

    def do_PUT(self) -> None:
        bucket, name, held = self.server.uploads[self.path.rpartition("/")[2]]
        held += self._body()
        if self.headers.get("Content-Range", "").endswith("/*"):
            return self._reply(308, Range=f"bytes=0-{len(held) - 1}")
        return self._stored((bucket, name), bytes(held))

    def do_DELETE(self) -> None:
        path, query = self._asked()
        bucket, name = map(unquote, re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.+)", path).groups())
        with self.server.lock:
            held = self.server.objects.get((bucket, name))
            if held is None:
                return self._reply(404)
            if int(query.get("ifGenerationMatch", held.generation)) != held.generation:
                return self._reply(412)
            del self.server.objects[bucket, name]
        return self._reply(204)


def _between(content_type: str, body: bytes, parsed: bytes) -> bytes:
    """The second part of a multipart body to the byte: a mail parser may change the ends of its lines."""
    boundary = re.search(r"boundary=\"?([^\";]+)", content_type)[1].encode()
    part = body.split(b"--" + boundary)[2]
    line = b"\r\n" if part.startswith(b"\r\n") else b"\n"  # what ends lines here: data may itself end with either
    return part[part.index(line * 2) + 2 * len(line) :].removesuffix(line)
