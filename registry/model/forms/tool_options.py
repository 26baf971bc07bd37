"""The options of npx and its like, and of uv: which stand alone, which take a value, and which Stockade refuses."""

from __future__ import annotations

from typing import Final

from registry.model.options import Grammar

FOLDERS: Final = "folders of the host are not in the image"
FILES: Final = "files of the host are not in the image"
INDEX: Final = "package indexes are the host's own settings (UV_INDEX)"
DEFAULT_INDEX: Final = "package indexes are the host's own settings (UV_DEFAULT_INDEX)"
CERTIFICATES: Final = "certificates are checked; name your own authority with `extra_ca:`"

UV_FLAGS: Final = (
    "-q --quiet -v --verbose -n --no-cache --offline --no-progress --native-tls --no-native-tls --system-certs --no-config"
    " --no-python-downloads --allow-python-downloads --managed-python --no-managed-python --preview --no-preview --isolated"
)
"""What may stand anywhere after `uv`, and says nothing about what is run."""
UV_VALUES: Final = (
    "--cache-dir --color --python-preference --python-fetch --preview-features --directory --project --config-file"
    " --allow-insecure-host"
)
UV_INSTALL_FLAGS: Final = (
    "--refresh --reinstall -U --upgrade --no-sources --compile-bytecode --no-compile-bytecode --no-build --no-binary"
    " --no-build-isolation --no-index --no-env-file --require-build-hashes --no-require-build-hashes --lfs"
)
UV_INSTALL_VALUES: Final = (
    "--with -w --with-editable --with-requirements --python -p --prerelease --resolution --index-strategy --link-mode"
    " --refresh-package --exclude-newer --exclude-newer-package --index --default-index --index-url -i --extra-index-url"
    " --env-file -f --find-links --keyring-provider -P --upgrade-package --upgrade-group --fork-strategy"
    " --prerelease-package --reinstall-package -C --config-setting --config-settings-package --no-build-package"
    " --no-binary-package --no-build-isolation-package --no-sources-package --python-platform --python-version"
)
UV_REFUSED: Final = {
    "--index": INDEX,
    "--default-index": DEFAULT_INDEX,
    "--index-url": DEFAULT_INDEX,
    "-i": DEFAULT_INDEX,
    "--extra-index-url": INDEX,
    "--no-index": DEFAULT_INDEX,
    "--env-file": "files of the host are not in the container; use `env:`",
    "--with-editable": FOLDERS,
    "--with-requirements": "files of the host are not in the image; use --with",
    "-f": FOLDERS,
    "--find-links": FOLDERS,
    "--config-file": "the settings of uv are the host's own; write packages and versions by --with",
    "--allow-insecure-host": CERTIFICATES,
    "--python-platform": "packages are installed for the container's own platform",
}
UVX: Final = Grammar(
    flags=frozenset(f"{UV_FLAGS} {UV_INSTALL_FLAGS}".split()),
    values=frozenset(
        f"{UV_VALUES} {UV_INSTALL_VALUES} --from -c --constraints -b --build-constraints --overrides"
        " --torch-backend".split()
    ),
)
UVX_REFUSED: Final = {
    **UV_REFUSED,
    "-c": FILES,
    "--constraints": FILES,
    "-b": FILES,
    "--build-constraints": FILES,
    "--overrides": FILES,
    "--directory": FOLDERS,
    "--project": FOLDERS,
}
PIPX: Final = Grammar(
    flags=frozenset(
        "--no-cache --pypackages --system-site-packages -e --editable --verbose -v --quiet -q --path --global"
        " --fetch-missing-python".split()
    ),
    values=frozenset("--spec --with --python --index-url -i --pip-args --backend --fetch-python".split()),
)
PIPX_REFUSED: Final = {
    "--index-url": DEFAULT_INDEX,
    "-i": DEFAULT_INDEX,
    "--pip-args": "pip is not what installs it; write packages and versions by --spec",
    "-e": FOLDERS,
    "--editable": FOLDERS,
    "--pypackages": FOLDERS,
}

NPM_REFUSED: Final = {
    "--registry": "the registry is the host's own setting (npm config)",
    "--workspace": "folders of the host are not in the image",
    "-w": "folders of the host are not in the image",
    "--userconfig": "files of the host are not in the image",
}
NPX: Final = Grammar(
    flags=frozenset(
        "-y --yes -q --quiet --silent --prefer-online --prefer-offline --no-install --no -s --no-audit --no-fund"
        " --no-update-notifier --offline --legacy-peer-deps --force -f --ignore-scripts --ignore-existing"
        " --shell-auto-fallback --always-spawn --verbose -d -dd -ddd --no-color --no-progress".split()
    ),
    values=frozenset(
        "-p --package -c --call --registry --loglevel --cache --workspace -w --userconfig --prefix -C --node-options"
        " --node-arg -n --script-shell --shell --npm".split()
    ),
)
NPX_REFUSED: Final = {
    **NPM_REFUSED,
    "-c": "a shell command is not a package",
    "--call": "a shell command is not a package",
    "--node-arg": "options of Node are set by env: {NODE_OPTIONS: …}",
    "-n": "options of Node are set by env: {NODE_OPTIONS: …}",
}
BUNX: Final = Grammar(
    flags=frozenset("--bun -b --silent --verbose --no-install -y --yes".split()),
    values=frozenset("-p --package".split()),
)
PNPM_DLX: Final = Grammar(
    flags=frozenset(
        "-s --silent -c --shell-mode --color --no-color --prefer-offline --prefer-online --offline".split()
    ),
    values=frozenset(
        "-p --package --reporter --loglevel --allow-build -C --dir --registry --config.minimumReleaseAge".split()
    ),
)
PNPM_DLX_REFUSED: Final = {
    "-c": "a shell command is not a package",
    "--shell-mode": "a shell command is not a package",
    "--registry": NPM_REFUSED["--registry"],
}
YARN_DLX: Final = Grammar(flags=frozenset("-q --quiet".split()), values=frozenset("-p --package".split()))
