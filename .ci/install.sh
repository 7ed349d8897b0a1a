#!/bin/bash
# Installs the Debian packages of the named sections of packages.txt that are missing: .ci/install.sh build test
set -euo pipefail
list=$(dirname "$0")/packages.txt
missing=()
for section in "$@"; do
  packages=$(awk -v want="[$section]" '/^#/ {next} /^\[/ {on = $0 == want; next} on && NF {print $1}' "$list")
  [ -n "$packages" ] || { echo "no section [$section] in $list" >&2; exit 2; }
  for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
done
[ ${#missing[@]} -gt 0 ] || exit 0

root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "missing: ${missing[*]}; run as root, or install sudo" >&2; exit 1; }
  root=(sudo)
fi
echo "installing: ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
{ "${root[@]}" apt-get -q update && "${root[@]}" apt-get -q -y install --no-install-recommends "${missing[@]}"; } >&2
