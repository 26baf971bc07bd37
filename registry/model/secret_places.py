"""Where programs keep keys, tokens and sessions of people: files that let a reader act as them.

Paths with `~` are below the home folder of the user who runs Stockade.
"""

from __future__ import annotations

import os
from typing import Final

PLACES: Final = (
    # keys of people and machines
    "~/.ssh", "~/.gnupg", "~/.pki", "~/.password-store", "~/.local/share/keyrings", "~/.local/share/kwalletd",
    "~/Library/Keychains", "~/.config/op", "~/.config/Bitwarden CLI", "~/.config/sops", "~/.age",
    "/etc/shadow", "/etc/gshadow", "/etc/ssh", "/etc/ssl/private", "/etc/sudoers", "/etc/sudoers.d", "/etc/krb5.keytab",
    # clouds and clusters
    "~/.aws", "~/.azure", "~/.config/gcloud", "~/.oci", "~/.kube", "~/.config/doctl", "~/.config/hcloud", "~/.config/rclone",
    "~/.fly", "~/.vault-token", "~/.terraform.d/credentials.tfrc.json", "/etc/kubernetes", "/etc/rancher",
    # forges and registries
    "~/.config/gh", "~/.config/glab-cli", "~/.git-credentials", "~/.config/git/credentials", "~/.netrc", "~/.npmrc",
    "~/.pypirc", "~/.config/pip", "~/.cargo/credentials.toml", "~/.gem/credentials", "~/.config/containers/auth.json",
    "~/.m2/settings.xml", "~/.config/composer/auth.json",
    # databases
    "~/.pgpass", "~/.my.cnf", "~/.mylogin.cnf",
    # AI clients
    "~/.claude.json", "~/.claude/.credentials.json", "~/.codex/auth.json", "~/.gemini/oauth_creds.json",
    "~/.config/github-copilot", "~/.local/share/opencode/auth.json", "~/.qwen/oauth_creds.json",
    # browsers and mail
    "~/.mozilla", "~/.config/google-chrome", "~/.config/chromium", "~/.config/BraveSoftware", "~/.config/microsoft-edge",
    "~/.config/vivaldi", "~/.config/opera", "~/.thunderbird", "~/Library/Application Support/Google/Chrome",
    "~/Library/Application Support/Firefox", "~/Library/Cookies",
    # wallets
    "~/.bitcoin", "~/.ethereum", "~/.electrum",
)  # fmt: skip


def secret_place(path: str) -> str:
    """The place with keys that the path is in, or that is there and in the path; empty: none. The path is absolute and has
    no links."""
    home = os.path.expanduser("~")
    homes = dict.fromkeys((home, os.path.realpath(home)))
    places = [(place, os.path.normpath(place.replace("~", one, 1))) for one in homes for place in PLACES]
    for place, whole in places:
        if path == whole or path.startswith(f"{whole}/"):
            return place
    prefix = f"{path.rstrip('/')}/"
    return next((place for place, whole in places if whole.startswith(prefix) and os.path.lexists(whole)), "")
