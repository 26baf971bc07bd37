"""Checks as data: each says what to do; the real ones run on the real engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.runtime import doctor
from gateway.runtime.docker.engine import DockerEngine
from gateway.runtime.engine.base import EngineInfo

INFO = EngineInfo(
    id="e", version="27.0", api_version="1.47", kernel="6.1", architecture="x86_64", seccomp=True, root_directory="/"
)


def test_an_engine_elsewhere_is_a_failure_with_the_way_out() -> None:
    finding = doctor.engine_finding("tcp://192.0.2.9:2375", INFO)
    assert finding.state == "fail"
    assert "unset DOCKER_HOST" in finding.fix
    assert doctor.engine_finding("unix:///var/run/docker.sock", INFO).state == "ok"


def test_no_seccomp_is_a_failure() -> None:
    assert doctor.seccomp_finding(INFO).state == "ok"
    assert doctor.seccomp_finding(replace(INFO, seccomp=False)).state == "fail"


def test_a_probe_that_got_out_is_a_failure_in_its_own_words() -> None:
    assert doctor.isolation_finding("").state == "ok"
    assert doctor.isolation_finding("It got out.") == doctor.Finding(
        name="isolation", state="fail", detail="It got out."
    )


def test_an_engine_without_the_route_isolates_all_the_same() -> None:
    assert doctor.route_finding(False).state == "warn"
    assert "Nothing is less safe" in doctor.route_finding(False).fix


def test_socket_memory_outside_of_every_limit_is_said_with_what_it_means() -> None:
    assert doctor.sockets_finding(replace(INFO, cgroup=1), True).state == "ok"
    finding = doctor.sockets_finding(replace(INFO, cgroup=1), False)
    assert finding.state == "warn"
    assert "outside of its memory limit" in finding.detail
    assert "run the gateway as root" in finding.fix


def test_files_that_the_whole_machine_shares_are_said(tmp_path: Path) -> None:
    limit = tmp_path / "file-max"
    assert doctor.files_finding(limit).state == "ok", "not readable, not checked"
    limit.write_text("9223372036854775807\n")
    assert doctor.files_finding(limit).state == "ok"
    limit.write_text("819200\n")
    assert doctor.files_finding(limit).state == "warn"
    assert "allows 819200 open files in total" in doctor.files_finding(limit).detail


@pytest.mark.anyio
async def test_no_engine_is_one_failure_and_no_more_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKADE_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    findings = await doctor.examine("p")
    assert [finding.state for finding in findings] == ["ok", "ok", "fail"]
    assert [finding.name for finding in findings[:2]] == ["run directory", "secrets"]
    assert "There is no Docker engine" in findings[2].detail


@pytest.mark.docker
@pytest.mark.anyio
async def test_this_machine_passes_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = {finding.name: finding for finding in await doctor.examine("doctest")}
    assert {
        "engine",
        "disk",
        "base image",
        "isolation",
        "direct connections",
        "open files",
        "socket memory",
    } <= findings.keys()
    assert [f for f in findings.values() if f.state == "fail"] == []
    engine = DockerEngine()
    left = await engine.call("list", lambda api: api.containers(all=True, filters={"name": "stockade-doctor"}))
    networks = [network.name for network in await engine.networks() if "stockade-doctor" in network.name]
    await engine.close()
    assert left == []
    assert networks == []
