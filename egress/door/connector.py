"""A connector: stands on a network that a backend joins, looks names up there and dials for the egress.

It decides nothing. The egress asks for the addresses of a name, checks them, and asks for a connection to one of
them; the connected socket goes back over `doors.sock`. Standard library only; environment: STOCKADE_DOOR,
STOCKADE_NONCE, STOCKADE_GENERATION, STOCKADE_DOORS_DIR, STOCKADE_USER, as for a door.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from egress.door.door import RETRY_S, DoorSettings
from egress.door.passing import Message, close_all, receive_packet, send_packet
from egress.door.privileges import drop_privileges

WORKERS = 48
"""Three backends' worth of lookups under way at once."""
MAX_ANSWERS = 16
DIAL_TIMEOUT_S = 10.0


class Connector:
    """One connector, for as long as its process lives."""

    def __init__(self, settings: DoorSettings) -> None:
        self.settings = settings
        self.sending = threading.Lock()
        self.workers = ThreadPoolExecutor(WORKERS)

    def run(self) -> None:
        """Register with the egress and answer it; again whenever it went away."""
        while True:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as egress:
                try:
                    egress.connect(str(self.settings.rendezvous))
                    self.serve(egress)
                except (OSError, ValueError):
                    pass
            time.sleep(RETRY_S)

    def serve(self, egress: socket.socket) -> None:
        """Until the egress hangs up. Raises OSError or ValueError."""
        self.send(
            egress,
            {
                "role": "connector",
                "door": self.settings.door,
                "nonce": self.settings.nonce,
                "generation": self.settings.generation,
                "listeners": [],
                "last": True,
            },
        )
        while (packet := receive_packet(egress)) is not None:
            message, fds = packet
            close_all(fds)
            if "op" in message:
                self.workers.submit(self.answer, egress, message)
            elif not message.get("ok"):
                return

    def answer(self, egress: socket.socket, question: Message) -> None:
        number = question.get("id")
        try:
            if question["op"] == "resolve":
                self.send(egress, {"id": number, "addresses": look_up(str(question["host"]))})
            elif question["op"] == "dial":
                with dial(str(question["address"]), int(question["port"])) as connection:
                    self.send(egress, {"id": number, "ok": True}, [connection.fileno()])
            else:
                self.send(egress, {"id": number, "error": f"a connector cannot {question['op']}"})
        except Exception as error:  # the top of this task; the egress must get an answer
            self.send(egress, {"id": number, "error": str(error)})

    def send(self, egress: socket.socket, message: Message, fds: list[int] | None = None) -> None:
        with self.sending:
            send_packet(egress, message, fds or [])


def look_up(host: str) -> list[str]:
    """Addresses of `host` by the DNS of this network. Raises OSError."""
    # As bytes: text would import the IDNA codec now, after the privileges to read it are gone.
    answers = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]).partition("%")[0] for answer in answers))[:MAX_ANSWERS]


def dial(address: str, port: int) -> socket.socket:
    """A connection to a literal address. Raises OSError or ValueError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    socket.inet_pton(family, address)  # never a name: only what the egress checked
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(DIAL_TIMEOUT_S)
        sock.connect((address, port))
        sock.settimeout(None)
    except OSError:
        sock.close()
        raise
    return sock


def main() -> int:
    """Run the connector of this container."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    settings = DoorSettings.from_environment(os.environ)
    drop_privileges(settings.user)
    Connector(settings).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
