#!/bin/sh
# Checks ringback-site/ before Asterisk starts: every site file exists, none contains a value of its example, and none allows
# transfers. Asterisk itself would start with a known password, or without the phones of a missing file.
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
# reported FILE PATTERN REASON: a fault for each line with the pattern.
reported() {
    # A comment begins with a semicolon, in haproxy's files with a number sign.
    found=$(sed 's/[;#].*//' "$1" | grep -nE "$2") || return 0
    while IFS= read -r line; do
        fault "$(basename "$1"), line ${line%%:*}: $(printf %s "${line#*:}" | grep -oE "$2" | head -n 1) $3"
    done <<LINES
$found
LINES
}

for file in "$site"/*; do
    case $file in *.example) continue ;; esac
    reported "$file" "$placeholder" "is a placeholder of the example; set your own value"
    # Asterisk's values for "yes". A phone that may transfer can take over the calls of others (README.md, "During a call").
    reported "$file" "allow_transfer *=>? *([Yy1tT]|[Oo][Nn])[^ ]*" "lets a phone take over the calls of others; remove this line"
done
exit $faults
