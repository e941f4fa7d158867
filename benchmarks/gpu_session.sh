#!/usr/bin/env bash
# What is worth knowing about the kernels on a GPU, in under ten minutes, what matters most first.
#
#   benchmarks/gpu_session.sh FOLDER [--rehearse] [--minutes 9.5] [--wheels FOLDER] [--bundle FILE]
#
# Each part writes FOLDER/PART.json as it ends, and FOLDER/PART.log. A second call skips the parts
# that are done and goes on with the others. --rehearse runs every part on a CPU. --wheels installs
# what is missing from a folder of wheels. --bundle keeps everything in one archive, written anew
# after each part, and goes on from that archive where FOLDER is empty. PYTHON names the interpreter.
set -u
PYTHON=${PYTHON:-python3}
here=$(cd "$(dirname "$0")/.." && pwd)
folder='' minutes=9.5 wheels='' bundle='' rehearse=()

usage() { sed -n '4p' "$0" | cut -c5- >&2; exit 2; }
while [ $# -gt 0 ]; do
    case $1 in
        --rehearse) rehearse=(--rehearse) ;;
        --minutes | --wheels | --bundle)
            [ $# -gt 1 ] || usage
            declare "${1#--}=$2"
            shift ;;
        -*) usage ;;
        *) [ -z "$folder" ] || usage; folder=$1 ;;
    esac
    shift
done
[ -n "$folder" ] || usage
end=$(($(date +%s) + $(awk "BEGIN { printf \"%d\", 60 * $minutes }")))

mkdir -p "$folder" || exit 1
folder=$(cd "$folder" && pwd)
if [ -n "$bundle" ] && [ -f "$bundle" ] && [ -z "$(ls -A "$folder")" ]; then
    tar -xzf "$bundle" -C "$folder"
fi
if [ -n "$wheels" ]; then
    site=$(mktemp -d)
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl ||
        exit 1
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONUNBUFFERED=1
cd "$here" || exit 1

part() { # NAME SECONDS
    local left=$((end - $(date +%s))) limit=$2
    if [ -f "$folder/$1.json" ]; then
        echo "$1: done before"
        return
    fi
    if [ "$left" -lt 10 ]; then
        echo "$1: no time left"
        return
    fi
    [ ${#rehearse[@]} -eq 0 ] || limit=$((3 * limit)) # a CPU takes its time
    [ "$left" -lt "$limit" ] && limit=$left
    timeout --kill-after=5 "$limit" "$PYTHON" -W ignore -m benchmarks.gpu_session "$1" \
        --out "$folder/$1.json" "${rehearse[@]}" >"$folder/$1.log" 2>&1
    local rc=$?
    case $rc in
        0) echo "$1: done" ;;
        124 | 137) echo "$1: stopped after $limit s" ;;
        *) echo "$1: failed ($rc): $(tail -n 1 "$folder/$1.log")" ;;
    esac
    if [ -n "$bundle" ]; then
        tar -czf "$bundle.tmp" -C "$folder" . && mv "$bundle.tmp" "$bundle"
    fi
}

part environment 30
part checks 75
part first-use 80
part decoding 100
part products 110
part training 75
part layers 90
part loading 75
part sanitizer 100
"$PYTHON" -W ignore -m benchmarks.gpu_session summary --out "$folder"
for name in environment checks first-use decoding products training layers loading sanitizer; do
    [ -f "$folder/$name.json" ] || exit 1
done
