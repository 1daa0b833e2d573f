#!/bin/sh
# Install cross-compilers, emulators and a browser: by apt where we may, else say what is missing. Never fails: what needs a missing
# program is skipped with a reason.
set -u

packages=""
want() { command -v "$1" >/dev/null 2>&1 || packages="$packages $2"; }
want gcc "gcc libc6-dev"
want arm-none-eabi-gcc "gcc-arm-none-eabi libnewlib-arm-none-eabi"
want aarch64-linux-gnu-gcc "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
want qemu-system-arm qemu-system-arm
want qemu-aarch64 qemu-user
want clang clang
want cmake cmake
want chromium chromium
want chromedriver chromium-driver
python3 -c 'import ensurepip' 2>/dev/null || packages="$packages python3-venv"

[ -z "$packages" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing$packages"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null && exit 0
fi
echo "not installed:$packages" >&2
echo "on Debian or Ubuntu: sudo apt-get install$packages" >&2
echo "without them, code for Arm is compiled but not run; the demo runs on this machine's CPU" >&2
exit 0
