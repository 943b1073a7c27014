//! Seeds changed as an attacker, a bug or a bad connection would change them. The same seed number gives the same changes.

/// Text that is syntax for a system that could get it: an ARI URL, a dialplan, SIP, DynamoDB, JSON, a form, a log, a screen.
pub const HOSTILE: [&str; 34] = [
    "${SHELL(touch canary)}",
    "$[1+1]",
    "${EVAL(${CALLERID(num)})}",
    "${DB_DELTREE(a)}",
    "1001,1,Hangup()",
    "1001^s^1",
    "a|b&c",
    ")v(X=1",
    "):b(s",
    "1001@evil.example",
    "PJSIP/1002&PJSIP/1001",
    "../../asterisk/info",
    "..%2f..%2fchannels?api_key=a:b",
    "?reason=normal#",
    "\"><sip:evil@192.0.2.1>",
    "\\\"\\\\",
    "\r\nX-Evil: 1",
    "%0d%0aX-Evil: 1",
    "\n{\"level\":\"ERROR\"}",
    "\u{1b}[31mred\u{1b}[0m\u{7}",
    "\u{0}",
    "%00",
    "%c0%af",
    ":pk = :pk OR attribute_exists(pk)",
    "1001#ROUTE",
    "\"},\"to\":\"/topics/all",
    "&CallTo=1900&secret=x",
    "१००१",
    "1001\u{200b}",
    "\u{202e}1001\u{2066}",
    "١٢٣",
    "👩‍👩‍👧‍👦📞",
    "مريم",
    "{}[]:,'\"`;<>",
];

/// The longest result, in bytes. It is above every limit but that of a stream's frame.
const LONGEST: usize = 20_000;

/// An endless iterator over changed seeds.
#[derive(Debug)]
pub struct Mutations<'a> {
    seeds: &'a [Vec<u8>],
    state: u64,
}

impl<'a> Mutations<'a> {
    /// The changes of these seeds. Another `number` gives other changes.
    #[must_use]
    pub const fn of(seeds: &'a [Vec<u8>], number: u64) -> Self {
        Self {
            seeds,
            state: number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// Xorshift: the numbers must be reproducible, not good.
    fn random(&mut self) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        usize::try_from(self.state >> 33).unwrap_or(0)
    }

    /// A number below `end`, or 0 if `end` is 0.
    fn below(&mut self, end: usize) -> usize {
        self.random().checked_rem(end).unwrap_or(0)
    }

    fn seed(&mut self) -> Vec<u8> {
        let at = self.below(self.seeds.len());
        self.seeds.get(at).cloned().unwrap_or_default()
    }

    fn range(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let start = self.below(bytes.len() + 1);
        start..start + self.below(bytes.len() - start + 1).min(64)
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        match self.below(9) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (self.random() & 7);
                }
            }
            1 => bytes.insert(at, u8::try_from(self.random() & 0xff).unwrap_or(0)),
            2 => drop(bytes.drain(self.range(bytes))),
            3 => {
                let again = bytes[self.range(bytes)].to_vec();
                insert(bytes, at, &again);
            }
            4 => bytes.truncate(at),
            5 => {
                let other = self.seed();
                let range = self.range(&other);
                insert(bytes, at, &other[range]);
            }
            6 => {
                let byte = b"0aA/%{[\"\\ \xff\x00"[self.below(12)];
                let many = [1, 33, 65, 129, 4_097, 17_000][self.below(6)];
                insert(bytes, at, &vec![byte; many]);
            }
            _ => {
                let hostile = HOSTILE[self.below(HOSTILE.len())];
                let range = self.range(bytes);
                bytes.splice(range, hostile.bytes());
            }
        }
    }
}

impl Iterator for Mutations<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut bytes = self.seed();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes);
        }
        bytes.truncate(LONGEST);
        Some(bytes)
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, what: &[u8]) {
    bytes.splice(at..at, what.iter().copied());
}
