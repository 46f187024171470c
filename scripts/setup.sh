#!/bin/sh
# Installs the Debian packages Wrenn is built, tested and run with. Says which; uses sudo when not root.
# Run by every make target that needs them; does nothing (and takes no time) when all are there. `setup.sh test` also installs
# what only tests need.
set -eu

# One line per reason.
BUILD="gcc libc6-dev lld protobuf-compiler libprotobuf-dev"                 # linker and code generation
RUN="qemu-system-x86 postgresql redis-server nftables iproute2 xfsprogs e2fsprogs procps"
GUEST="mmdebstrap debian-archive-keyring"                       # guest kernel and image
TEST="openssl busybox-static tini python3-venv python3-aiosmtpd chromium chromium-driver"

missing=""
[ "${1:-}" = test ] || TEST=""
for package in $BUILD $RUN $GUEST $TEST; do
    status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
if [ -z "$missing" ]; then
    exit 0
fi

echo "installing Debian packages:$missing"
SUDO=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "not root and no sudo: install these packages yourself:$missing" >&2; exit 1; }
    SUDO=sudo
fi
# PostgreSQL and Redis run privately: the system-wide services these packages would start are not wanted.
# shellcheck disable=SC2086
policy=/usr/sbin/policy-rc.d
made=""
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $SUDO tee "$policy" >/dev/null
    $SUDO chmod 755 "$policy"
    made=yes
fi
cleanup() { [ -z "$made" ] || $SUDO rm -f "$policy"; }
trap cleanup EXIT INT TERM
$SUDO apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $SUDO env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
