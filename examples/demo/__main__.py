"""`scripts/demo`: set the stage, start the gateway, tell the story, leave the gateway running."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import docker
from rich.console import Console
from rich.text import Text

from examples.demo import stage, story

ROOT = Path(__file__).resolve().parents[2]
VAR = ROOT / "var" / "demo"
CONFIG = VAR / "demo.yaml"
INTERNET = "stockade-demo-internet"
SUBNET, GATEWAY = "10.213.77.0/24", "10.213.77.1"
ENDPOINT = "http://127.0.0.1:8420/mcp"

console = Console(highlight=False, soft_wrap=True)


def stockade(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the `stockade` command as a user would, its output on our terminal."""
    command = [sys.executable, "-m", "gateway.cli.main", "--file", str(CONFIG), *arguments]
    return subprocess.run(command, cwd=ROOT, text=True, check=check)


def set_the_stage() -> None:
    """Certificates, a copy of the configuration, the internet, the rogue's image."""
    VAR.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / "examples" / "demo.yaml", CONFIG)
    stage.make_certificates(VAR)
    engine = docker.from_env()
    console.print("[bold]1.[/] Base image, and a small internet of our own in a container")
    base = asyncio.run(stage.python_base())
    stage.build_rogue(engine, base)
    stage.start_internet(engine, base, VAR, name=INTERNET, subnet=SUBNET, gateway=GATEWAY)


def tell(shown: story.Shown) -> bool:
    """Print one scene; returns whether it went as promised."""
    mark = Text(" ok ", style="green") if shown.as_expected else Text("FAIL", style="bold red")
    console.print(mark, Text(shown.scene.says))
    console.print(Text(f"       {shown.scene.tool} {dict(shown.scene.arguments)}", style="dim"))
    for denial in shown.denials:
        console.print(Text(f"       blocked: {denial['host']}:{denial['port']} {denial['reason']}", style="yellow"))
    console.print(Text(f"       {gist(shown.text)}", style="dim"))
    return shown.as_expected


def gist(text: str) -> str:
    """What a person wants to see of an answer: Stockade's own line, else its content without what leads up to it."""
    lines = text.splitlines()
    told = [line for line in lines if line.startswith("Stockade ")][:1]
    return " ".join(" ".join(told or [line for line in lines if not line.endswith(":")]).split())[:160]


async def tell_the_story() -> bool:
    """Play every scene as the developer, then look at the lists of two clients, then allow a host live."""
    good = True
    async with story.client(ENDPOINT, "demo-developer") as developer:
        for scene in story.SCENES:
            good &= tell(await story.play(developer, scene))
        async with story.client(ENDPOINT, "demo-reviewer") as reviewer:
            ours = {tool.name for tool in (await developer.list_tools()).tools}
            theirs = {tool.name for tool in (await reviewer.list_tools()).tools}
        console.print(f"\nTwo clients, two views: developer sees {len(ours)} tools, reviewer {sorted(theirs)}")
        good &= theirs < ours
        console.print("\nNow the policy changes, while everything runs:")
        await asyncio.to_thread(stockade, "egress", "allow", "fetch", "evil.example", "--yes")
        after = story.Scene(
            says="The call that was blocked now passes; nothing was restarted",
            tool="fetch__fetch",
            arguments={"url": "https://evil.example/"},
            expects="hello from evil.example",
        )
        good &= tell(await story.play(developer, after))
    return good


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--down", action="store_true", help="stop the demo's gateway and remove all it made")
    if parser.parse_args().down:
        stockade("down", check=False)
        stage.stop_internet(docker.from_env(), INTERNET)
        return 0
    set_the_stage()
    console.print("[bold]2.[/] The gateway: builds the servers' images (cached), probes the wall, starts")
    if stockade("up", "-d", str(CONFIG), check=False).returncode != 0:  # it said why
        stage.stop_internet(docker.from_env(), INTERNET)
        return 1
    console.print("[bold]3.[/] The story, through a real MCP client\n")
    good = asyncio.run(tell_the_story())
    console.print("\n[bold]4.[/] What is running\n")
    stockade("ps")
    console.print(
        f"\nThe gateway keeps running at [bold]{ENDPOINT}[/] (demo token: demo-developer)\n"
        "  watch it:   .venv/bin/stockade -f var/demo/demo.yaml egress tail -f\n"
        "  the page:   http://127.0.0.1:8421/   (its token was printed at the first start; a new one:\n"
        "              .venv/bin/stockade -f var/demo/demo.yaml admin token --new)\n"
        "  stop it:    scripts/demo --down"
    )
    if not good:
        console.print("[bold red]The story did not go as promised: see FAIL above.[/]")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
