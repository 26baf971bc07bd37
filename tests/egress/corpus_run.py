"""Replays the corpus against real proxy processes: `unshare --net --mount python -m tests.egress.corpus_run OUT`.

Writes a JSON object: case id → list of faults (empty: as it must be), and under "" what is wrong with the whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.egress.corpus_cases import Case, World, load_cases, load_world, pieces, whole
from tests.egress.corpus_world import NAMESERVER, Nameserver, Trap, make_every_address_local, use_our_nameserver

TRAPS = {22, 23, 25, 53, 80, 81, 443, 1, 3000, 5432, 5433, 7999, 8000, 8010, 8011, 8080, 8443, 9090, 9091, 65535}
WAIT_S = 10.0


@dataclass
class Seen:
    """What came of one case."""

    client: str
    answer: bytes = b""
    reached: list[str] = field(default_factory=list)
    forwarded: bytes = b""
    asked: set[str] = field(default_factory=set)
    decisions: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    stuck: str = ""


class Proxies:
    """One standalone proxy process for each policy."""

    def __init__(self, world: World) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.processes = {name: self.start(world, name) for name in world.policies}

    def start(self, world: World, name: str) -> subprocess.Popen[bytes]:
        policy = self.folder / f"{name}.json"
        policy.write_text(json.dumps(world.policies[name]))
        command = [sys.executable, "-m", "egress.serve", "--policy", str(policy)]
        command += ["--listen", f"[::]:{world.listen[name]}" if name == "self" else f"127.0.0.1:{world.listen[name]}"]
        for entry in world.resolve.get(name, []):
            command += ["--resolve", entry]
        with (self.folder / f"{name}.out").open("wb") as out, (self.folder / f"{name}.err").open("wb") as err:
            return subprocess.Popen(command, stdout=out, stderr=err)

    def stop(self) -> list[str]:
        """End them; what was wrong with them."""
        faults = []
        for name, process in self.processes.items():
            if process.poll() is not None:
                faults.append(f"the proxy {name} ended with {process.returncode}")
            process.send_signal(signal.SIGTERM)
        for name, process in self.processes.items():
            process.wait(30)
            errors = (self.folder / f"{name}.err").read_text()
            if "Traceback" in errors:
                faults.append(f"the proxy {name} says: {errors[-4000:]}")
        return faults

    def decisions(self) -> dict[str, list[str]]:
        """Client address → its decisions, in order, from the logs."""
        found: dict[str, list[str]] = {}
        for path in self.folder.glob("*.out"):
            for line in path.read_text().splitlines():
                event = json.loads(line)
                if event.get("kind") != "egress" or event.get("phase") != "decided":
                    continue
                word = {"allow": "allow", "report": f"report:{event.get('reason')}"}.get(event["decision"])
                found.setdefault(event["client_address"], []).append(word or event["reason"])
        return found


async def wait_listening(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return


async def speak(case: Case, port: int, seen: Seen) -> None:
    """Be the client of one case: send, half-close, read to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(seen.client, 0))
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    answer = bytearray()
    try:
        async with asyncio.timeout(WAIT_S):
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                for step in case.send:
                    if isinstance(step, dict) and "await" in step:
                        answer += await reader.readuntil(b"\r\n\r\n")
                        continue
                    for piece in pieces(step):
                        writer.write(piece)
                        await writer.drain()
                writer.write_eof()
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65536):
                    answer += data
    except TimeoutError:
        seen.stuck = "the client waited for its end in vain"
    finally:
        writer.close()
    seen.answer = bytes(answer)


async def run_case(case: Case, port: int, seen: Seen, trap: Trap, names: Nameserver) -> None:
    trap.reset(whole(case.reply))
    names.asked = seen.asked
    with contextlib.suppress(OSError):
        await speak(case, port, seen)
    for _ in range(5):  # whatever is in a backlog is taken out
        await asyncio.sleep(0)
    try:
        async with asyncio.timeout(WAIT_S):
            await trap.idle.wait()
    except TimeoutError:
        seen.stuck = "the proxy keeps a connection to the outside"
    seen.reached = list(trap.reached)
    seen.forwarded = bytes(trap.received)
    seen.broken = list(trap.broken)


def judge(case: Case, seen: Seen) -> list[str]:
    """What is not as the case says."""
    faults = [seen.stuck] if seen.stuck else []
    if seen.decisions != case.decisions:
        faults.append(f"decided {seen.decisions}, not {case.decisions}")
    reached = set(seen.reached)
    if case.any_of:
        if len(reached) != 1 or not reached <= set(case.any_of):
            faults.append(f"reached {sorted(reached)}, not one of {case.any_of}")
    elif reached != set(case.reaches):
        faults.append(f"reached {sorted(reached)}, not {sorted(case.reaches)}")
    carried = any(word == "allow" or word.startswith("report:") for word in case.decisions)
    if not carried and seen.forwarded:
        faults.append(f"forwarded {seen.forwarded[:200]!r}")
    if seen.broken and case.complete:
        faults.append(f"what was forwarded is not whole: {seen.broken}")
    faults += judge_bytes("answer", seen.answer, [case.answer_has] if case.answer_has else [], case.answer_lacks)
    faults += judge_bytes("forwarded", seen.forwarded, case.forwarded_has, case.forwarded_lacks)
    if case.looks_up is not None and seen.asked - set(case.looks_up):
        faults.append(f"looked up {sorted(seen.asked)}, not only {case.looks_up}")
    return faults


def judge_bytes(what: str, data: bytes, has: list[str], lacks: list[str]) -> list[str]:
    shown = f"{data[:300]!r}"
    faults = [f"{what} lacks {text!r}: {shown}" for text in has if text.encode("latin-1") not in data]
    return faults + [f"{what} has {text!r}: {shown}" for text in lacks if text.encode("latin-1") in data]


async def run(world: World, cases: list[Case]) -> dict[str, list[str]]:
    loop = asyncio.get_running_loop()
    _, names = await loop.create_datagram_endpoint(lambda: Nameserver(world.zone), local_addr=(NAMESERVER, 53))
    trap = Trap()
    await trap.listen(TRAPS)
    proxies = Proxies(world)
    for port in world.listen.values():
        await wait_listening(port)
    found: list[tuple[Case, Seen]] = []
    for number, case in enumerate(cases):
        seen = Seen(client=f"127.9.{number // 250}.{number % 250 + 1}")
        await run_case(case, world.listen[case.policy], seen, trap, names)
        found.append((case, seen))
    whole_faults = proxies.stop()
    decisions = proxies.decisions()
    results = {"": whole_faults}
    for case, seen in found:
        seen.decisions = decisions.get(seen.client) or decisions.get(f"::ffff:{seen.client}") or []
        results[case.id] = judge(case, seen)
    return results


def main() -> None:
    world = load_world()
    wanted = sys.argv[2:]
    cases = [case for case in load_cases() if not wanted or any(word in case.id for word in wanted)]
    make_every_address_local(world.host_addresses)
    use_our_nameserver()
    results = asyncio.run(run(world, cases))
    Path(sys.argv[1]).write_text(json.dumps(results))
    os._exit(0)


if __name__ == "__main__":
    main()
