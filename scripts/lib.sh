# Shared by the scripts beside it: what to install, and how. Each function does nothing when nothing is missing.

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

state_dir="${XDG_CACHE_HOME:-$HOME/.cache}/stockade"

on_debian_as_root() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && grep -qiE '^(ID|ID_LIKE)=.*(debian|ubuntu)' /etc/os-release
}

# apt_install PACKAGE...: installs what dpkg does not have; the package lists are fetched once per run.
apt_install() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  on_debian_as_root || die "missing: ${missing[*]}. Install them with your system's package manager and run this again."
  say "installing ${missing[*]}"
  if [ -z "${apt_updated:-}" ]; then
    apt-get update -qq >/dev/null || die "apt-get update failed: check the network and /etc/apt/sources.list"
    apt_updated=yes
  fi
  # No service of these packages may start: the tests start what they need, on ports of their own.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${missing[@]}" >"${TMPDIR:-/tmp}/stockade-apt.log" 2>&1 \
    || { tail -20 "${TMPDIR:-/tmp}/stockade-apt.log" >&2; die "apt-get could not install ${missing[*]}"; }
}

ensure_uv() {
  command -v uv >/dev/null && return 0
  export PATH="$state_dir/uv/bin:$PATH"
  command -v uv >/dev/null && return 0
  say "installing uv"
  python3 -m venv "$state_dir/uv" >/dev/null 2>&1 || { apt_install python3-venv; python3 -m venv "$state_dir/uv"; }
  "$state_dir/uv/bin/pip" install --quiet uv || die "pip could not install uv: check the network and pip's settings"
}

ensure_venv() {
  ensure_uv
  export UV_PYTHON_DOWNLOADS=never
  uv sync --frozen --quiet --compile-bytecode || die "uv could not make .venv from uv.lock; Python 3.11 or newer is needed (python3 --version)"
  export PATH="$PWD/.venv/bin:$PATH"
}

engine_answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

ensure_engine() {
  command -v docker >/dev/null && engine_answers && return 0
  if ! on_debian_as_root; then
    if [ -S /var/run/docker.sock ] && [ ! -w /var/run/docker.sock ]; then
      die "you may not use the Docker engine's socket. Run: sudo usermod -aG docker $(id -un), then log in again."
    fi
    die "no Docker engine answers. Install and start one (Debian, Ubuntu: sudo apt-get install docker.io; macOS: Docker Desktop or colima; others: https://docs.docker.com/engine/install/), then run this again."
  fi
  apt_install docker.io iptables
  if [ -d /run/systemd/system ]; then
    rm -f /usr/sbin/policy-rc.d
    systemctl start docker
  else
    start_dockerd
  fi
  wait_for_engine
}

start_dockerd() {
  say "starting dockerd (log: /var/log/stockade-dockerd.log)"
  local pidfile
  for pidfile in /var/run/docker.pid /var/run/docker/containerd/containerd.pid; do
    # A pid file that outlived its process would keep dockerd from starting. A process that was killed and not waited
    # for (a zombie) still has its /proc entry, but no program any more.
    if [ -f "$pidfile" ] && ! readlink "/proc/$(cat "$pidfile")/exe" 2>/dev/null | grep -qE 'dockerd|containerd'; then
      rm -f "$pidfile"
    fi
  done
  setsid nohup dockerd >/var/log/stockade-dockerd.log 2>&1 </dev/null &
}

wait_for_engine() {
  local tries=0
  until engine_answers; do
    tries=$((tries + 1))
    [ "$tries" -le 120 ] || { tail -20 /var/log/stockade-dockerd.log >&2; die "the Docker engine did not come up within 60 s"; }
    sleep 0.5
  done
}

# Where no image registry answers, base images are made with debootstrap; that needs root.
ensure_base_image_tools() {
  if on_debian_as_root; then apt_install debootstrap debian-archive-keyring; fi
}

ensure_test_programs() {
  apt_install iproute2 procps curl git chromium prometheus squid tinyproxy postgresql postgresql-client
}
