"""One epoll inside the event loop: every descriptor is told of, stale events do no harm, a failing one ends alone."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
from collections.abc import Callable

import pytest

from egress.net.poller import ALONE_AT_ONCE, ENDED, EVENTS_A_TURN, EVENTS_AT_ONCE, LATER_A_TURN, Poller, Pollers
from egress.net.stream import Stream
from tests.egress.sockets import LOOPS, descriptors, polling, tcp_pair, turns, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


async def test_more_descriptors_than_one_batch_holds_are_all_told_of() -> None:
    called: set[int] = set()
    async with polling() as poller:
        with contextlib.ExitStack() as stack:
            for number in range(2 * ALONE_AT_ONCE + 3):
                ours, theirs = socket.socketpair()
                stack.enter_context(ours)
                stack.enter_context(theirs)
                theirs.send(b"x")
                poller.watch(ours.fileno(), lambda _, number=number: called.add(number))  # type: ignore[misc]
            await until(lambda: len(called) == 2 * ALONE_AT_ONCE + 3)


async def test_what_was_there_before_it_was_watched_is_told() -> None:
    called: list[int] = []
    async with polling() as poller:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.send(b"x")
            theirs.close()
            poller.watch(ours.fileno(), called.append)
            await until(lambda: called)


async def test_a_descriptor_that_was_closed_and_opened_again_in_a_batch_is_not_hurt_by_the_old_ones_event() -> None:
    """The second event of the batch is of a connection that the first one's handler replaced."""
    async with polling() as poller:
        with tcp_pair() as (first, first_peer), tcp_pair() as (old, old_peer), tcp_pair() as (new, new_peer):
            told: list[str] = []
            streams: list[Stream] = []
            number = old.fileno()

            def replace(_: int) -> None:
                if streams:
                    return
                poller.forget(number)
                old.close()
                taken = socket.socket(fileno=os.dup2(new.fileno(), number))
                stream = Stream(poller, taken)
                stream.on_input = lambda: told.append("input")
                stream.on_end = lambda: told.append("end")
                stream.on_lost = lambda: told.append("lost")
                streams.append(stream)

            poller.watch(first.fileno(), replace)
            poller.watch(number, lambda _: told.append("old"))
            first_peer.send(b"x")
            old_peer.send(b"x")
            old_peer.close()
            await until(lambda: streams)
            await turns()
            assert told == []
            new_peer.send(b"y")
            await until(lambda: told)
            assert (told, streams[0].take()) == (["input"], b"y")
            streams[0].abort()


async def test_a_passed_socket_tells_no_more_once_it_is_forgotten_though_another_process_holds_it() -> None:
    called: list[int] = []
    async with polling() as poller:
        ours, theirs = socket.socketpair()
        with ours, theirs, socket.socket(fileno=os.dup(ours.fileno())):
            poller.watch(ours.fileno(), called.append, passed=True)
            poller.forget(ours.fileno())
            ours.close()
            theirs.send(b"x")
            await turns()
            assert poller.epoll.poll(0) == []
        assert (called, poller.passed) == ([], set())


async def test_a_handler_that_fails_keeps_nobody_from_being_told(caplog: pytest.LogCaptureFixture) -> None:
    called: list[int] = []

    def fails(_: int) -> None:
        raise RuntimeError("a bug")

    class Fails:
        def uncork(self) -> None:
            raise RuntimeError("a bug")

    class Sends:
        def uncork(self) -> None:
            called.append(-1)

    def corks(poller: Poller) -> Callable[[int], None]:
        def handler(_: int) -> None:
            assert poller.corked is not None
            poller.corked += [Fails(), Sends()]

        return handler

    async with polling() as poller:
        with tcp_pair() as (one, peer_one), tcp_pair() as (two, peer_two), tcp_pair() as (three, peer_three):
            poller.watch(one.fileno(), fails)
            poller.watch(two.fileno(), called.append)
            poller.watch(three.fileno(), corks(poller))
            with caplog.at_level(logging.CRITICAL):
                for peer in (peer_one, peer_two, peer_three):
                    peer.send(b"x")
                await until(lambda: len(called) == 2)
            assert -1 in called
            assert poller.corked is None


async def test_a_connection_whose_handler_fails_is_ended_and_its_handler_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    called: list[int] = []

    def fails(events: int) -> None:
        called.append(events)
        raise RuntimeError("a bug, each time")

    async with polling() as poller:
        with tcp_pair() as (ours, peer):
            poller.watch(ours.fileno(), fails)
            with caplog.at_level(logging.CRITICAL):
                peer.send(b"x")
                await until(lambda: len(called) == 2)
                await turns()
            assert len(called) == 2
            assert called[1] & ENDED
            assert peer.recv(1) == b""
            poller.forget(ours.fileno())
            assert poller.failed == set()


async def test_other_work_of_the_loop_has_its_turn_between_batches() -> None:
    """A descriptor that is ready all the time takes no more than its share."""
    ticks: list[int] = []
    async with polling() as poller:
        with tcp_pair() as (ours, peer):

            def busy(_: int) -> None:
                ticks.append(len(ticks))
                peer.send(b"x")  # another event, for ever

            poller.watch(ours.fileno(), busy)
            peer.send(b"x")
            await until(lambda: len(ticks) > 3)
            await asyncio.sleep(0)
            poller.forget(ours.fileno())


async def test_work_that_goes_on_later_is_done_in_order_a_part_in_each_turn(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number == 3:
            raise RuntimeError("a bug")
        done.append(number)

    async with polling() as poller:
        poller.clock = lambda: 0.0
        with caplog.at_level(logging.CRITICAL):
            for number in range(3 * LATER_A_TURN):
                poller.later(functools.partial(work, number))
            assert done == []
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert 0 < len(done) <= 2 * LATER_A_TURN
            await until(lambda: not poller.waiting)
        assert done == [number for number in range(3 * LATER_A_TURN) if number != 3]
        await poller.turn()


async def test_work_that_asks_for_another_turn_leaves_the_loop_to_others() -> None:
    rounds: list[int] = []
    async with polling() as poller:

        def again() -> None:
            rounds.append(len(rounds))
            if len(rounds) < 100:
                poller.later(again)

        poller.later(again)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(rounds) <= 2, "it is not gone round within one turn"
        await until(lambda: len(rounds) == 100)


async def test_a_listener_goes_on_in_later_turns_and_after_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    """It is told once of all that waits, so what it left, or failed at, is not forgotten."""
    got: list[bytes] = []
    async with polling() as poller:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with ours, theirs, caplog.at_level(logging.CRITICAL):
            ours.setblocking(False)

            def take_one() -> bool:
                try:
                    data = ours.recv(10)
                except BlockingIOError:
                    return False
                if data == b"2":
                    raise RuntimeError("a bug")
                got.append(data)
                return True

            for number in range(6):
                theirs.send(b"%d" % number)
            poller.watch_listening(ours.fileno(), take_one)
            await until(lambda: len(got) == 5)
            theirs.send(b"9")
            await until(lambda: got == [b"0", b"1", b"3", b"4", b"5", b"9"])
            await until(lambda: not poller.waiting)
            poller.forget(ours.fileno())
            theirs.send(b"x")
            await turns()
            assert got[-1] == b"9"


async def test_each_backend_has_a_poller_until_nothing_is_left_of_it() -> None:
    before = descriptors()
    pollers = Pollers(asyncio.get_running_loop())
    one, two = pollers.of("one"), pollers.of("two")
    assert pollers.of("one") is one is not two
    assert one.scratch is two.scratch, "bytes pass through it, none stay"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        one.watch(ours.fileno(), lambda _: None)
        pollers.keep({"two"})
        assert set(pollers.by_name) == {"one", "two"}, "a connection is left"
        one.forget(ours.fileno())
        pollers.keep({"two"})
        assert set(pollers.by_name) == {"two"}
    pollers.close()
    assert descriptors() <= before


@pytest.mark.parametrize("waits", [False, True], ids=["alone", "another backend waits"])
async def test_a_turn_ends_when_another_backend_waits(waits: bool) -> None:
    """A neighbour meets a few events of a flood, not the whole budget of a turn."""
    pollers = Pollers(asyncio.get_running_loop())
    loud, calm = pollers.of("loud"), pollers.of("calm")
    loud.clock = lambda: 0.0
    called: list[int] = []
    with contextlib.ExitStack() as stack:
        stack.callback(pollers.close)
        for number in range(2 * EVENTS_A_TURN):
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            stack.enter_context(theirs)
            theirs.send(b"x")
            loud.watch(ours.fileno(), lambda _, number=number: called.append(number))  # type: ignore[misc]
        ours, theirs = socket.socketpair()
        with ours, theirs:
            calm.watch(ours.fileno(), lambda _: ours.recv(10))
            if waits:
                theirs.send(b"x")
            loud.dispatch()
            assert len(called) == (EVENTS_AT_ONCE if waits else EVENTS_A_TURN)
            calm.dispatch()
            loud.dispatch()
            assert len(called) == (EVENTS_AT_ONCE if waits else EVENTS_A_TURN) + EVENTS_A_TURN
            for _ in range(3):
                loud.later(lambda: called.append(-1))
            theirs.send(b"x")
            loud.go_on()
            assert called.count(-1) == 1, "work that was put off gives way as well"


async def test_closing_the_poller_gives_its_descriptor_back() -> None:
    before = descriptors()
    poller = Poller(asyncio.get_running_loop())
    poller.close()
    assert descriptors() <= before
