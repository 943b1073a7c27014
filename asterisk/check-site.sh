#!/bin/sh
# Checks ringback-site/ before Asterisk starts: every site file is there, and none still holds a value of its example.
# Asterisk itself would start all the same: with a known password, or without the phones of a missing file.
#
#   check-site.sh [FOLDER]     FOLDER is ringback-site, by default the one beside this script
#
# Prints one line for each fault, with file and line, and exits 1; prints nothing and exits 0 if there is none.
set -u
here=$(dirname "$0")
site=${1:-$here/ringback-site}
faults=0

fault() {
    echo "ringback-site: $*" >&2
    faults=1
}

# What the examples hold in place of your own values. 192.0.2.0/24 is reserved for documentation (RFC 5737).
placeholder='change-me|192\.0\.2\.[0-9]+|(abcdefghij|klmnopqrst)\.execute-api'

for example in "$here"/ringback-site/*.example; do
    [ -e "$example" ] || continue
    name=$(basename "$example" .example)
    [ -e "$site/$name" ] || fault "$name is missing; copy $name.example and fill it in"
done
for file in "$site"/*; do
    case $file in *.example) continue ;; esac
    # Comments begin at a semicolon, in haproxy's files at a number sign.
    found=$(sed 's/[;#].*//' "$file" | grep -nE "$placeholder") || continue
    while IFS= read -r line; do
        fault "$(basename "$file"), line ${line%%:*}: $(printf %s "${line#*:}" | grep -oE "$placeholder" | head -n 1) is an example's value; put your own there"
    done <<LINES
$found
LINES
done
exit $faults
