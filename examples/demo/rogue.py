"""An MCP server written to misbehave: it tries the ways out of its container, and says what happened.

Speaks MCP over stdio with the standard library alone. Each tool makes one attempt and returns one JSON object
with `outcome`: `reached`, `refused`, `timeout`, `blocked` (the proxy said no, with its status line) or `error`.
"""

import errno
import json
import os
import socket
import ssl
import sys
import urllib.parse

PROXY = ("127.0.0.1", 3128)
TIMEOUT_S = 3.0


def outcome(word, **more):
    return {"outcome": word, **more}


def guarded(attempt):
    """Run one attempt and name how it ended."""
    try:
        return attempt()
    except TimeoutError:
        return outcome("timeout")
    except ConnectionRefusedError:
        return outcome("refused")
    except ssl.SSLError as error:
        return outcome("cut", detail=str(error))
    except ConnectionResetError:
        return outcome("cut", detail="reset")
    except OSError as error:
        return outcome("error", errno=errno.errorcode.get(error.errno or 0, "?"), detail=str(error))


def tcp_connect(address, port, device=""):
    """Open a TCP connection past the proxy and send a line; a reply means that the wall has a hole."""

    def attempt():
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
            sock.settimeout(TIMEOUT_S)
            if device:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            sock.connect((address, port))
            sock.sendall(b"GET / HTTP/1.1\r\nHost: direct.example\r\nConnection: close\r\n\r\n")
            data = sock.recv(200)
            if not data:
                return outcome("closed")
            word = "blocked" if b" 403 " in data.split(b"\r\n")[0] else "reached"
            return outcome(word, data=data.decode("latin-1"))

    return guarded(attempt)


def udp_send(address, port, device=""):
    """Send one datagram; an ICMP error shows as `refused`."""

    def attempt():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1.0)
            if device:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            sock.connect((address, port))
            sock.send(b"stockade-probe")
            return outcome("reached", data=sock.recv(200).decode("latin-1"))

    return guarded(attempt)


def raw_socket(kind):
    """Ask the kernel for a socket that no backend should get. Never sends anything."""
    kinds = {
        "icmp": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "packet": (socket.AF_PACKET, socket.SOCK_RAW, 0),
        "vsock": (getattr(socket, "AF_VSOCK", 40), socket.SOCK_STREAM, 0),
    }

    def attempt():
        socket.socket(*kinds[kind]).close()
        return outcome("reached", detail=f"got a {kind} socket")

    return guarded(attempt)


def dns_lookup(name):
    """Resolve a name the way any program does."""

    def attempt():
        try:
            found = sorted({info[4][0] for info in socket.getaddrinfo(name, 443)})
        except socket.gaierror as error:
            return outcome("not_found", detail=str(error))
        return outcome("reached", addresses=found)

    return guarded(attempt)


def ask_proxy(head):
    sock = socket.create_connection(PROXY, timeout=TIMEOUT_S)
    sock.sendall(head.encode("latin-1"))
    data = b""
    while b"\r\n\r\n" not in data and len(data) < 65536:
        chunk = sock.recv(4096)
        if not chunk:
            break
        data += chunk
    status = data.split(b"\r\n", 1)[0].decode("latin-1")
    return sock, status, data


def proxy_get(url):
    """Ask the proxy for a plain-HTTP URL."""

    def attempt():
        host = urllib.parse.urlsplit(url).netloc
        sock, status, data = ask_proxy(f"GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        while chunk := sock.recv(4096):
            data += chunk
        sock.close()
        word = "reached" if " 200 " in status else "blocked"
        return outcome(word, status=status, body=data.partition(b"\r\n\r\n")[2].decode("utf-8", "replace"))

    return guarded(attempt)


def proxy_connect(host, port, sni="", path="/"):
    """Open a tunnel through the proxy and speak TLS in it, if asked to with another SNI than the host."""

    def attempt():
        target = f"[{host}]" if ":" in host else host
        sock, status, data = ask_proxy(f"CONNECT {target}:{port} HTTP/1.1\r\nHost: {target}:{port}\r\n\r\n")
        if " 200 " not in status:
            sock.close()
            return outcome("blocked", status=status, body=data.partition(b"\r\n\r\n")[2].decode("utf-8", "replace"))
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with context.wrap_socket(sock, server_hostname=sni or host) as tls:
            tls.sendall(f"GET {path} HTTP/1.1\r\nHost: {sni or host}\r\nConnection: close\r\n\r\n".encode())
            answer = tls.recv(4096)
        return outcome("reached" if answer else "closed", status=status, data=answer.decode("latin-1"))

    return guarded(attempt)


def look_around():
    """What the server can see of the world it is in."""
    with open("/proc/net/route") as routes, open("/etc/hosts") as hosts:
        return {
            "outcome": "seen",
            "interfaces": sorted(os.listdir("/sys/class/net")),
            "uid": os.getuid(),
            "routes": routes.read(),
            "hosts": hosts.read(),
            "environment": {k: v for k, v in os.environ.items() if "proxy" in k.lower()},
            "capabilities": next(line for line in open("/proc/self/status") if line.startswith("CapEff")).split()[1],
            "docker_socket": os.path.exists("/var/run/docker.sock"),
        }


def pause(seconds, then_host="", then_port=443):
    """Wait, then open a tunnel: for watching what happens while a call is in flight."""
    import time

    time.sleep(min(float(seconds), 30))
    return proxy_connect(then_host, then_port) if then_host else outcome("waited")


TOOLS = {
    f.__name__: f
    for f in (
        tcp_connect,
        udp_send,
        raw_socket,
        dns_lookup,
        proxy_get,
        proxy_connect,
        look_around,
        pause,
    )
}


def describe(function):
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    required = names[: len(names) - len(function.__defaults__ or ())]
    types = {"port": "integer", "then_port": "integer", "seconds": "number"}
    return {
        "name": function.__name__,
        "description": function.__doc__,
        "inputSchema": {
            "type": "object",
            "properties": {name: {"type": types.get(name, "string")} for name in names},
            "required": list(required),
        },
    }


def call(params):
    function = TOOLS.get(params.get("name"))
    if function is None:
        return {"content": [{"type": "text", "text": "unknown tool"}], "isError": True}
    result = function(**params.get("arguments", {}))
    failed = result["outcome"] in ("blocked", "cut")
    return {"content": [{"type": "text", "text": json.dumps(result)}], "isError": failed}


def answer(request):
    method, params = request.get("method"), request.get("params") or {}
    if method == "initialize":
        return {
            "protocolVersion": params.get("protocolVersion", "2025-06-18"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "rogue", "version": "1.0"},
        }
    if method == "tools/list":
        return {"tools": [describe(f) for f in TOOLS.values()]}
    if method == "tools/call":
        return call(params)
    if method == "ping":
        return {}
    return None


def main():
    for line in sys.stdin:
        request = json.loads(line)
        if "id" not in request:
            continue
        result = answer(request)
        reply = {"jsonrpc": "2.0", "id": request["id"]}
        if result is None:
            reply["error"] = {"code": -32601, "message": f"unknown method {request.get('method')}"}
        else:
            reply["result"] = result
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
