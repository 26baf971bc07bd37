"""The admin token, its sessions and the brake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.control import auth
from gateway.control.auth import AdminToken, Brake, Sessions
from gateway.control.tokens import mint


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def token(tmp_path: Path) -> AdminToken:
    return AdminToken(tmp_path / "admin.json")


def test_only_the_digest_of_the_token_is_kept(token: AdminToken) -> None:
    text = token.renew()
    assert token.matches(text)
    assert text not in token.path.read_text()
    assert token.path.stat().st_mode & 0o777 == 0o600


def test_nothing_matches_before_a_token_exists(token: AdminToken) -> None:
    assert not token.matches("")
    assert not token.matches(auth.PREFIX)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"token_sha256": 5}', '{"token_sha256": ""}'])
def test_a_damaged_file_matches_nothing(token: AdminToken, content: str) -> None:
    token.path.write_text(content)
    assert not token.matches("")
    assert not token.matches(auth.PREFIX + "x")


def test_a_client_token_is_no_admin_token_even_with_its_digest_in_the_file(token: AdminToken) -> None:
    client, digest = mint()
    token.path.write_text(json.dumps({"token_sha256": digest}))
    assert not token.matches(client)


def test_a_new_token_ends_the_old_one_and_its_sessions(token: AdminToken) -> None:
    old = token.renew()
    sessions = Sessions(token)
    cookie = sessions.open()
    assert sessions.valid(cookie)
    new = token.renew()
    assert not token.matches(old)
    assert token.matches(new)
    assert not sessions.valid(cookie)


def test_a_session_expires_and_can_be_closed(token: AdminToken) -> None:
    token.renew()
    clock = Clock()
    sessions = Sessions(token, clock=clock)
    first, second = sessions.open(), sessions.open()
    sessions.close(second)
    assert (sessions.valid(first), sessions.valid(second)) == (True, False)
    clock.now += auth.SESSION_S
    assert not sessions.valid(first)


def test_sessions_are_bounded(token: AdminToken) -> None:
    token.renew()
    sessions = Sessions(token)
    cookies = [sessions.open() for _ in range(auth.MAX_SESSIONS + 1)]
    assert not sessions.valid(cookies[0])
    assert sessions.valid(cookies[-1])


def test_the_brake_stops_guessing_and_lets_go_after_a_minute() -> None:
    clock = Clock()
    brake = Brake(clock=clock)
    for _ in range(auth.MAX_FAILURES):
        assert brake.wait_s("a") == 0
        brake.failed("a")
    assert brake.wait_s("a") == auth.FAILURE_WINDOW_S
    assert brake.wait_s("b") == 0
    clock.now += auth.FAILURE_WINDOW_S
    assert brake.wait_s("a") == 0


def test_the_brake_remembers_a_bounded_number_of_peers() -> None:
    brake = Brake()
    for n in range(auth.MAX_PEERS + 50):
        brake.failed(str(n))
    assert len(brake._failures) == auth.MAX_PEERS
