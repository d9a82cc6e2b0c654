#!/bin/sh
# Write the hashed lock files of the images again: sh deploy/docker/lock.sh (needs uv: pip install uv).
# Python and C library are those of the base images: 3.12 on Ubuntu 24.04 (server), 3.11 on Debian 12 (cpu).
set -eu
cd "$(dirname "$0")/../.."
compile() {
    uv pip compile --quiet --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "sh deploy/docker/lock.sh" "$@"
}
compile --python-version 3.12 --python-platform x86_64-manylinux_2_39 pyproject.toml deploy/docker/server.in -o deploy/docker/server.lock
compile --python-version 3.11 --python-platform x86_64-manylinux_2_36 --extra serve pyproject.toml -o deploy/docker/cpu.lock
compile --python-version 3.11 --python-platform x86_64-manylinux_2_36 deploy/docker/tools.in -o deploy/docker/tools.lock
