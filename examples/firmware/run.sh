#!/bin/sh
# Build and run the program: run.sh [cortex-m4-gcc | cortex-m4-zig | aarch64-gcc] [folder to build in].
set -eu
here=$(cd "$(dirname "$0")" && pwd)
toolchain=${1:-cortex-m4-gcc}
build=${2:-build/firmware-$toolchain}
cmake -S "$here" -B "$build" --toolchain "$here/$toolchain.cmake" -Dtinyopt_DIR="$(tinyopt --cmake-dir)"
cmake --build "$build"
ctest --test-dir "$build" --output-on-failure --verbose
