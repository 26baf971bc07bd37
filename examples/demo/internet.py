"""A small internet of our own, for the demo and the tests: HTTP and TLS hosts under a CA of ours.

Runs in a container on a network that no backend is on. It answers any host name on port 80 and, by SNI, each
name that `/certs/NAME.pem` (key and chain) exists for on port 443. Every contact is one line on stdout:
`HIT PROTOCOL HOST PATH`, so that a test can tell that nothing arrived. Standard library only.
"""

import http.server
import json
import pathlib
import socket
import ssl
import threading

CERTS = pathlib.Path("/certs")


class Host(http.server.BaseHTTPRequestHandler):
    """Answers every GET with a JSON document that says which host was asked for what."""

    protocol_version = "HTTP/1.1"
    timeout = 20

    def do_GET(self) -> None:
        protocol = "https" if isinstance(self.connection, ssl.SSLSocket) else "http"
        host = self.headers.get("Host", "-")
        print(f"HIT {protocol} {host} {self.path}", flush=True)
        if self.path == "/robots.txt":
            self.send_error(404)
            return
        body = json.dumps({"host": host, "path": self.path, "greeting": f"hello from {host}"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class TLSHosts(http.server.ThreadingHTTPServer):
    """One port, many names: the handshake happens in the connection's own thread."""

    daemon_threads = True

    def finish_request(self, request: socket.socket, client_address: object) -> None:
        request.settimeout(20)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sni_callback = choose_certificate
        context.load_cert_chain(next(iter(sorted(CERTS.glob("*.pem")))))
        try:
            tls = context.wrap_socket(request, server_side=True)
        except (ssl.SSLError, OSError):
            print("HIT tls - handshake-failed", flush=True)
            return
        self.RequestHandlerClass(tls, client_address, self)

    def handle_error(self, request: object, client_address: object) -> None:
        pass


def choose_certificate(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
    """Give the connection the certificate of the name it asked for."""
    path = CERTS / f"{name}.pem"
    if name and path.is_file():
        chosen = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        chosen.load_cert_chain(path)
        connection.context = chosen


def listen_to_datagrams() -> None:
    """Report every UDP datagram to port 53, so that a leak is seen even if nothing answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trap:
        trap.bind(("0.0.0.0", 53))
        while True:
            data, _ = trap.recvfrom(2048)
            print(f"HIT udp - {len(data)}", flush=True)


def main() -> None:
    plain = http.server.ThreadingHTTPServer(("0.0.0.0", 80), Host)
    plain.daemon_threads = True
    threading.Thread(target=plain.serve_forever, daemon=True).start()
    threading.Thread(target=listen_to_datagrams, daemon=True).start()
    print("READY", flush=True)
    TLSHosts(("0.0.0.0", 443), Host).serve_forever()


if __name__ == "__main__":
    main()
