"""A small web server for this machine's own browser: it serves the URLs that it is given and nothing else.

No path is ever made from a URL, so there is no way out of a folder. Requests are bounded in size, time and number.
Knows nothing of what the pages show.
"""

import io
import os
import socketserver
import stat
import sys
import threading
import time
import webbrowser
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from imagernn.errors import InputError

PACKAGE = Path(__file__).resolve().parents[1]
VIS = PACKAGE / 'vis' if (PACKAGE / 'vis').is_dir() else PACKAGE.parent / 'vis'    # installed; in the checkout
MOST_HEAD_BYTES = 2 ** 15     # a browser's cookies of other servers on this host are among them
HEAD_SECONDS = 10             # in which a request must have arrived
ANSWER_SECONDS = 120          # in which the browser must have taken the answer
MOST_THREADS = 64
PORTS_TRIED = 100
CHUNK = 2 ** 20
TYPES = {'.html': 'text/html; charset=utf-8', '.css': 'text/css; charset=utf-8',
         '.js': 'text/javascript; charset=utf-8', '.json': 'application/json', '.jpg': 'image/jpeg',
         '.jpeg': 'image/jpeg', '.png': 'image/png', '.gif': 'image/gif', '.bmp': 'image/bmp', '.webp': 'image/webp'}
HEADERS = {
    'Content-Security-Policy': "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
                               "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Cache-Control': 'no-cache',
    'Connection': 'close',
}


def serve(routes, port=0, open_browser=True, first='/'):
    """Serve routes on 127.0.0.1 until Ctrl-C; print the address of `first`, and open it in the browser.

    routes: see serving. port: 0 for any; where it is taken, the next free one. Raises InputError as serving does.
    """
    with serving(routes, port) as address:
        try:
            if port and not address.endswith(f':{port}'):
                print(f'port {port} is taken')
            print(f'open {address}{first} in a browser; Ctrl-C ends', flush=True)
            if open_browser and _has_screen():
                webbrowser.open(address + first)
            while True:
                time.sleep(1)    # not longer: another thread may get the signal, which this one then sees late
        except KeyboardInterrupt:
            print()


@contextmanager
def serving(routes, port=0):
    """Serve in the background while the with-block runs. Gives the address, http://127.0.0.1:PORT, without a slash.

    routes: URL path, exactly as a browser sends it -> function() returning (content type, bytes), or the pair
    (content type, Path). It may grow and shrink while it is served. A Path must be a real one, as real_file gives
    it: what has become a link since, or was never a plain file, is not found.
    Raises InputError where the port, and the PORTS_TRIED after it, cannot be had.
    """
    server = _bind(routes, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': .1}, daemon=True)
    thread.start()
    try:
        yield f'http://127.0.0.1:{server.server_address[1]}'
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def page_routes(page, *names):
    """The routes of a page: '/' is the file `page` of vis/, '/NAME' each of the other files of vis/ that it loads."""
    return {'/': (TYPES['.html'], VIS / page), **{f'/{name}': (TYPES[Path(name).suffix], VIS / name) for name in names}}


def real_file(path, folder):
    """The path that `path` really is, all links followed, if that is a plain file in folder; else None."""
    try:
        real = Path(path).resolve(strict=True)
        return real if real.is_file() and real.is_relative_to(Path(folder).resolve()) else None
    except (OSError, ValueError, RuntimeError):          # absent, forbidden; a zero byte; links in a circle
        return None


def _has_screen():
    """Whether webbrowser would open a window, and not a text browser in this very terminal."""
    return not sys.platform.startswith('linux') or any(map(os.environ.get, ('DISPLAY', 'WAYLAND_DISPLAY', 'BROWSER')))


def _bind(routes, port):
    if not 0 <= port <= 65535:
        raise InputError(f'--port {port}: must be at least 0, which is any, and at most 65535')
    error = None
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        try:
            return _Server(('127.0.0.1', candidate), routes)
        except OSError as taken:
            error = taken
    raise InputError(f'--port {port}: cannot be had, nor those after it ({error.strerror}); name one above 1023, or 0')


class _Server(socketserver.ThreadingTCPServer):
    """At most MOST_THREADS answers at once; a thread never outlives the program."""

    daemon_threads, block_on_close = True, False
    allow_reuse_address = os.name == 'posix'             # elsewhere it would share a port that is taken
    request_queue_size = 128

    def __init__(self, address, routes):
        super().__init__(address, _Handler)
        port = self.server_address[1]
        self.routes, self.hosts = routes, {f'localhost:{port}', f'127.0.0.1:{port}'}
        self._free = threading.BoundedSemaphore(MOST_THREADS)

    def process_request(self, request, client_address):
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):   # a client that left, or was too slow, is no news
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One request, one answer, then the connection closes."""

    server_version, sys_version = 'imagernn', ''

    def handle(self):
        head = self._read_head()
        if not head:
            return
        self.rfile = io.BytesIO(head)
        self.raw_requestline = self.rfile.readline()
        if len(head) > MOST_HEAD_BYTES:
            self.requestline, self.request_version, self.command = '', self.protocol_version, ''
            self.send_error(431, f'a request has at most {MOST_HEAD_BYTES} bytes')
        elif not self.parse_request():
            return                                       # it has been answered
        elif self.command not in ('GET', 'HEAD'):
            self.send_error(405, 'only GET and HEAD')
        elif not self._asked_by_our_name():
            self.send_error(403, f'ask for http://127.0.0.1:{self.server.server_address[1]}/ by that name and port')
        else:
            self._answer()

    def _read_head(self):
        """The request without a body; empty if it does not come in time and whole; too long if it is too long."""
        head, deadline = b'', time.monotonic() + HEAD_SECONDS
        while b'\r\n\r\n' not in head and len(head) <= MOST_HEAD_BYTES:
            self.connection.settimeout(max(.001, deadline - time.monotonic()))
            part = self.connection.recv(2 ** 14)
            if not part:
                return b''
            head += part
        return head

    def _asked_by_our_name(self):
        """Else a page elsewhere, whose name is made to point here (DNS rebinding), would read what we serve."""
        hosts = self.headers.get_all('Host', [])
        return len(hosts) == 1 and hosts[0].strip().lower() in self.server.hosts

    def _answer(self):
        route = self.server.routes.get(self.path)
        if route is None:
            return self.send_error(404, 'nothing here')
        try:
            kind, content = route() if callable(route) else route
            if isinstance(content, Path):
                descriptor = open_plain(content)
                size, file = os.fstat(descriptor).st_size, open(descriptor, 'rb')
            else:
                size, file = len(content), io.BytesIO(content)
        except OSError as error:
            print(f'warning: {self.path} cannot be served: {error}', file=sys.stderr)
            return self.send_error(404, 'the file cannot be read')
        except Exception:
            self.send_error(500, 'an error of the program; its terminal tells')
            raise
        with file:
            self.send_response(200)
            self.send_header('Content-Type', kind)
            self.send_header('Content-Length', str(size))
            self.end_headers()
            if self.command == 'GET':
                self._send(file, size)

    def _send(self, file, size):
        deadline = time.monotonic() + ANSWER_SECONDS
        while size and (part := file.read(min(size, CHUNK))):
            self.connection.settimeout(max(.001, deadline - time.monotonic()))
            self.wfile.write(part)
            size -= len(part)

    def send_error(self, code, message=None, explain=None):
        """The refusal as plain text."""
        self.connection.settimeout(HEAD_SECONDS)
        text = f'{code}: {message or self.responses[code][0]}\n'.encode('utf-8', 'replace')
        self.send_response(code, self.responses[code][0])
        self.send_header('Content-Type', 'text/plain; charset=utf-8')
        self.send_header('Content-Length', str(len(text)))
        if code == 405:
            self.send_header('Allow', 'GET, HEAD')
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(text)

    def end_headers(self):
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format, *args):
        pass


def open_plain(path):
    """A descriptor of the plain file at a real path; OSError for anything else. A FIFO does not block."""
    if os.path.realpath(path) != str(path):
        raise OSError(f'{path} is not a real path: it holds a link, or is relative')
    descriptor = os.open(path, os.O_RDONLY | getattr(os, 'O_NOFOLLOW', 0) | getattr(os, 'O_NONBLOCK', 0)
                         | getattr(os, 'O_BINARY', 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f'{path} is not a plain file')
    return descriptor
