#!/bin/sh
# Writes the sound for a party that the other one has put on hold: two soft notes every five seconds over quiet noise.
#
#   hold-music.sh FOLDER     writes FOLDER/hold.ulaw, where FOLDER is "directory" in ringback-site/musiconhold.conf
#
# The result is 8 kHz mono µ-law (G.711), so Asterisk does not translate it for most calls.
set -eu
mkdir -p "$1"
# awk prints each sample as an octal escape, because not every awk can print all bytes.
samples=$(LC_ALL=C awk '
    function ulaw(sample,    sign, exponent, step) {
        sign = sample < 0 ? 128 : 0
        sample = (sample < 0 ? -sample : sample) + 132
        exponent = 7
        for (step = 16384; exponent > 0 && sample < step; step /= 2) exponent--
        return 255 - sign - 16 * exponent - int(sample / 2 ^ (exponent + 3)) % 16
    }
    function note(hertz, seconds) {
        return seconds < 0 ? 0 : 3000 * exp(-3 * seconds) * sin(6.28318530718 * hertz * seconds)
    }
    BEGIN {
        for (i = 0; i < 40000; i++) {
            noise = (noise * 1103 + 12345) % 65536
            printf "\\%03o", ulaw(note(659.3, i / 8000) + note(523.3, i / 8000 - 0.5) + noise / 1024 - 32)
        }
    }')
# shellcheck disable=SC2059 # the format has nothing but escapes
printf "$samples" >"$1/hold.ulaw"
