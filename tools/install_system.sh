#!/bin/sh
# Install cross-compilers, emulators and a browser: by apt where we may, else say what is missing. Never fails: what needs a missing
# program is skipped with a reason.
set -u

packages=""
want() { command -v "$1" >/dev/null 2>&1 || packages="$packages $2"; }
want gcc "gcc libc6-dev"
want arm-none-eabi-gcc "gcc-arm-none-eabi libnewlib-arm-none-eabi"
want aarch64-linux-gnu-gcc "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
want arm-linux-gnueabihf-gcc "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross"
want qemu-system-arm qemu-system-arm
want qemu-aarch64 qemu-user
want clang clang
want cmake cmake
want chromium chromium
want chromedriver chromium-driver
python3 -c 'import ensurepip' 2>/dev/null || packages="$packages python3-venv"

optional=""
command -v clang-19 >/dev/null 2>&1 || optional=clang-19

[ -z "$packages$optional" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  apt-get update -qq
  # older distributions lack it, and one unknown package would keep apt from installing the others
  [ -n "$optional" ] && apt-cache show "$optional" >/dev/null 2>&1 && packages="$packages $optional"
  [ -z "$packages" ] && exit 0
  echo "installing$packages"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null && exit 0
fi
[ -z "$packages" ] && exit 0
echo "not installed:$packages" >&2
echo "on Debian or Ubuntu: sudo apt-get install$packages" >&2
echo "without them, code for Arm is compiled but not run; the demo runs on this machine's CPU" >&2
exit 0
