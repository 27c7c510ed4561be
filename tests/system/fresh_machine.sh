#!/bin/sh
# The README's two commands as a new user runs them: a fresh clone of the last commit, an empty home,
# no root, no Chromium on the PATH, nothing left over from an earlier set-up.
#
#   sh tests/system/fresh_machine.sh                              every test (takes as long as `make test`)
#   sh tests/system/fresh_machine.sh tests/storage/test_cache.py  these tests alone
#
# As root it goes on as the user `nobody` (setpriv, of util-linux). Where pip finds its packages is
# taken over from the environment (PIP_*); so are proxies.
set -eu

source=$(cd "$(dirname "$0")/../.." && pwd)
fresh=$(mktemp -d "${TMPDIR:-/tmp}/fresh-XXXXXX")
cleared() { chmod -R u+w "$fresh" 2>/dev/null || true; rm -rf "$fresh"; }
trap cleared EXIT
trap 'exit 1' INT TERM

mkdir "$fresh/home" "$fresh/bin" "$fresh/tmp"
git clone --quiet "$source" "$fresh/checkout"

as_user=
if [ "$(id -u)" = 0 ]; then
    chown -R nobody "$fresh"
    as_user="setpriv --reuid=nobody --regid=nogroup --clear-groups"
fi

cat >"$fresh/commands" <<'COMMANDS'
set -eu
# Every program of the PATH that this user may run, but browsers, sudo and the package managers.
bin=$HOME/../bin
IFS=:
for folder in $PATH; do
    for program in "$folder"/*; do
        name=${program##*/}
        case $name in
        chromium* | google-chrome* | sudo | apt-get | dnf | zypper | pacman | apk) continue ;;
        esac
        if [ -f "$program" ] && [ -x "$program" ] && [ ! -e "$bin/$name" ]; then
            ln -s "$program" "$bin/$name"
        fi
    done
done
unset IFS
export PATH="$bin"

cd "$1"
shift
make test ${1:+PYTEST_OPTIONS="$*"} >"$HOME/test.log" 2>&1 || { cat "$HOME/test.log"; exit 1; }
tail -n 3 "$HOME/test.log"
tail -n 1 "$HOME/test.log" | grep -q 'browser test.* left out' || {
    echo "The last line of the tests does not say that browser tests were left out." >&2
    exit 1
}
make run STREAMLIT_OPTIONS="--server.port 8599 --server.headless true" >"$HOME/run.log" 2>&1 &
running=$!
trap 'kill $running 2>/dev/null || true' EXIT
python3 - <<'PYTHON'
import time
import urllib.request

for _ in range(120):
    try:
        with urllib.request.urlopen("http://localhost:8599/_stcore/health", timeout=5) as answer:
            print("make run: the dashboard answers", answer.read().decode())
            break
    except OSError:
        time.sleep(1)
else:
    raise SystemExit("The dashboard did not answer within two minutes.")
PYTHON
COMMANDS

# shellcheck disable=SC2046,SC2086  # words of their own
$as_user env -i HOME="$fresh/home" TMPDIR="$fresh/tmp" PATH="$PATH" LANG=C.UTF-8 \
    $(env | grep -E '^(PIP_|SSL_CERT|REQUESTS_CA|https?_proxy|HTTPS?_PROXY|no_proxy|NO_PROXY)') \
    sh "$fresh/commands" "$fresh/checkout" "$@"
