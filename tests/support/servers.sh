#!/usr/bin/env bash
# Real servers that tests and benches compare with: rsyslog with its RELP modules. As root installed by apt (no service is
# started), else unpacked into .cache/servers. Prints where each program is. Without apt: says so loudly and goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."
packages=(rsyslog rsyslog-relp)
local_root=.cache/servers

skip() {
    echo "!!! SKIPPED: $1; tests that need ${packages[*]} will be skipped !!!" >&2
    exit 0
}

find_rsyslogd() {
    PATH="$PATH:/usr/sbin:/sbin:$PWD/$local_root/usr/sbin" command -v rsyslogd || true
}

relp_of() {
    local root=${1%/usr/sbin/rsyslogd}
    [[ $root != "$1" ]] || root=
    find "$root/usr/lib" -name imrelp.so -path '*rsyslog*' 2>/dev/null | head -n 1
}

refresh_lists() {
    apt-cache policy rsyslog-relp 2>/dev/null | grep -q 'Candidate: [0-9]' || "$@"
}

install_as_root() {
    local policy=/usr/sbin/policy-rc.d saved=
    if [[ -e $policy ]]; then
        saved=$(mktemp)
        cp -p "$policy" "$saved"
    fi
    # shellcheck disable=SC2064 -- the values of now are meant
    trap "if [[ -n '$saved' ]]; then cp -p '$saved' $policy && rm -f '$saved'; else rm -f $policy; fi" EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy" # 101: invoke-rc.d must not start anything
    chmod 755 "$policy"
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${packages[@]}" >/dev/null
}

unpack_locally() {
    local downloads=.cache/servers-deb
    mkdir -p "$downloads" "$local_root"
    (cd "$downloads" && apt-get download -qq "${packages[@]}" libestr0 libfastjson4 librelp0)
    local package
    for package in "$downloads"/*.deb; do
        dpkg -x "$package" "$local_root"
    done
}

program=$(find_rsyslogd)
if [[ -z $program || -z $(relp_of "$program") ]]; then
    command -v apt-get >/dev/null || skip "no apt-get here"
    if [[ $(id -u) == 0 ]]; then
        refresh_lists apt-get update -qq || skip "apt-get update failed"
        install_as_root || skip "apt-get install failed"
    else
        refresh_lists false || skip "the package lists are empty (apt-get update needs root)"
        unpack_locally || skip "apt-get download failed"
    fi
    program=$(find_rsyslogd)
fi
[[ -n $program ]] || skip "rsyslogd is not where it was installed to"
echo "rsyslogd: $program"
echo "imrelp:   $(relp_of "$program")"
