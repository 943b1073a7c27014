#!/bin/sh
# Checks ringback-site/ before Asterisk starts: every site file exists, and none contains a value of its example.
# Asterisk itself would start with a known password, or without the phones of a missing file.
#
#   check-site.sh [FOLDER]     the default FOLDER is ringback-site beside this script
#
# Prints one line for each error, with file and line, and exits 1. Without errors, prints nothing and exits 0.
set -u
here=$(dirname "$0")
site=${1:-$here/ringback-site}
faults=0

fault() {
    echo "ringback-site: $*" >&2
    faults=1
}

# The placeholders of the examples. 192.0.2.0/24 is reserved for documentation (RFC 5737).
placeholder='change-me|192\.0\.2\.[0-9]+|(abcdefghij|klmnopqrst)\.execute-api'

for example in "$here"/ringback-site/*.example; do
    [ -e "$example" ] || continue
    name=$(basename "$example" .example)
    [ -e "$site/$name" ] || fault "$name is missing; copy $name.example and fill it in"
done
for file in "$site"/*; do
    case $file in *.example) continue ;; esac
    # A comment begins with a semicolon, in haproxy's files with a number sign.
    found=$(sed 's/[;#].*//' "$file" | grep -nE "$placeholder") || continue
    while IFS= read -r line; do
        fault "$(basename "$file"), line ${line%%:*}: $(printf %s "${line#*:}" | grep -oE "$placeholder" | head -n 1) is a placeholder of the example; set your own value"
    done <<LINES
$found
LINES
done
exit $faults
