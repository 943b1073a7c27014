//! The part of SDP that one PCMU stream and one VP8 stream need.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{
    Error,
    rtp::{Codec, RemoteStream, TELEPHONE_EVENT},
    srtp::{self, MasterKey},
};

/// The local streams of a leg.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalStreams {
    pub(crate) audio: LocalStream,
    pub(crate) video: Option<LocalStream>,
    /// How this leg holds the call. `None` while the parties talk.
    pub(crate) hold: Option<Hold>,
    /// The version of the session description, which each new offer raises (RFC 3264, section 8).
    pub(crate) version: u32,
}

/// How a phone says that it holds a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// `a=sendonly`: the phone may send music, and many phones keep sending silence (RFC 3264, section 8.4).
    SendOnly,
    /// The same, but the phone also changes from PCMU to PCMA, because it offers all its codecs again.
    SendOnlyInPcma,
    /// `a=inactive`: no media in either direction.
    Inactive,
    /// `c=IN IP4 0.0.0.0`, as RFC 2543 did it.
    ZeroAddress,
}

impl LocalStreams {
    fn direction(self) -> &'static str {
        match self.hold {
            None | Some(Hold::ZeroAddress) => "sendrecv",
            Some(Hold::SendOnly | Hold::SendOnlyInPcma) => "sendonly",
            Some(Hold::Inactive) => "inactive",
        }
    }

    /// The payload types of the audio, and the lines for those that PCMU does not need.
    fn codecs(self) -> (&'static str, &'static str) {
        match self.hold {
            Some(Hold::SendOnlyInPcma) => ("8 0", "a=rtpmap:8 PCMA/8000\r\n"),
            _ => ("0", ""),
        }
    }

    fn ip(self) -> IpAddr {
        match (self.hold, self.audio.address.ip()) {
            (Some(Hold::ZeroAddress), IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
            (Some(Hold::ZeroAddress), IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
            (_, ip) => ip,
        }
    }
}

/// The local side of a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalStream {
    pub(crate) address: SocketAddr,
    /// The key for our own packets. A leg with a key accepts only encrypted streams.
    pub(crate) key: Option<MasterKey>,
}

impl LocalStream {
    fn profile(self) -> &'static str {
        match self.key {
            None => "RTP/AVP",
            Some(_) => "RTP/SAVP",
        }
    }

    /// The `a=crypto` line. An answer repeats the tag of the offered line that it accepts (RFC 4568).
    fn crypto_line(self, tag: &str) -> String {
        let line = |key: MasterKey| {
            let (suite, inline) = (srtp::SUITE, key.inline());
            format!("a=crypto:{tag} {suite} inline:{inline}\r\n")
        };
        self.key.map(line).unwrap_or_default()
    }
}

/// The tag of the `a=crypto` line in our offers.
const OFFER_CRYPTO_TAG: &str = "1";

/// Writes the offer of a leg.
pub(crate) fn offer(local: LocalStreams) -> String {
    let direction = local.direction();
    let audio = audio_lines(local, OFFER_CRYPTO_TAG, true);
    let video = local.video.map(|video| {
        let payload_type = Codec::Vp8.payload_type().to_string();
        video_lines(video, &payload_type, OFFER_CRYPTO_TAG, direction)
    });
    session_lines(local) + &audio + &video.unwrap_or_default()
}

/// Writes the answer to an offer. An answer needs one `m=` line per offered stream, in the same order; port 0 refuses a
/// stream (RFC 3264).
pub(crate) fn answer(local: LocalStreams, offered: &[u8]) -> String {
    let offered = SessionDescription::read(offered);
    let (mut audio, mut video) = (Some(local.audio), local.video);
    let direction = local.direction();
    let answers = offered.streams.iter().map(|stream| {
        let vp8 = stream.payload_type_of("VP8/90000");
        let crypto = stream.crypto.map(|(tag, _)| tag);
        let accepts = |receiver: &LocalStream| receiver.key.is_none() || crypto.is_some();
        let tag = crypto.unwrap_or(OFFER_CRYPTO_TAG);
        match (stream.kind, vp8) {
            ("audio", _) => audio
                .take()
                .filter(accepts)
                .map(|_| audio_lines(local, tag, stream.offers_digits())),
            ("video", Some(vp8)) if stream.port != 0 => {
                let video = video.take().filter(accepts);
                video.map(|rtp| video_lines(rtp, vp8, tag, direction))
            }
            _ => None,
        }
        .unwrap_or_else(|| stream.refused())
    });
    session_lines(local) + &answers.collect::<String>()
}

/// The remote address for PCMU.
pub(crate) fn audio(sdp: &[u8]) -> Result<RemoteStream, Error> {
    let found = SessionDescription::read(sdp).remote("audio", |stream| {
        let pcmu = Codec::Pcmu.payload_type().to_string();
        stream.payload_types.iter().find(|&&n| n == pcmu).copied()
    });
    found.ok_or_else(|| Error::Sdp(String::from_utf8_lossy(sdp).into_owned()))
}

/// The remote address for VP8, if the remote accepts video.
pub(crate) fn video(sdp: &[u8]) -> Option<RemoteStream> {
    SessionDescription::read(sdp).remote("video", |stream| stream.payload_type_of("VP8/90000"))
}

fn session_lines(local: LocalStreams) -> String {
    let (ip, port, version) = (local.ip(), local.audio.address.port(), local.version);
    let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
    format!(
        "v=0\r\no=ringback {port} {version} IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\n"
    )
}

fn audio_lines(local: LocalStreams, tag: &str, digits: bool) -> String {
    let (port, profile) = (local.audio.address.port(), local.audio.profile());
    let crypto = local.audio.crypto_line(tag);
    let (direction, (codecs, rtpmaps)) = (local.direction(), local.codecs());
    let (payload_type, rtpmap) = match digits {
        true => (
            format!(" {TELEPHONE_EVENT}"),
            format!("a=rtpmap:{TELEPHONE_EVENT} telephone-event/8000\r\n"),
        ),
        false => (String::new(), String::new()),
    };
    format!(
        "m=audio {port} {profile} {codecs}{payload_type}\r\n{rtpmaps}a=rtpmap:0 PCMU/8000\r\n{rtpmap}{crypto}a=ptime:20\r\na={direction}\r\n"
    )
}

fn video_lines(receiver: LocalStream, payload_type: &str, tag: &str, direction: &str) -> String {
    let (port, profile) = (receiver.address.port(), receiver.profile());
    let crypto = receiver.crypto_line(tag);
    format!(
        "m=video {port} {profile} {payload_type}\r\na=rtpmap:{payload_type} VP8/90000\r\n{crypto}a={direction}\r\n"
    )
}

/// A parsed remote session description.
struct SessionDescription<'a> {
    ip: Option<IpAddr>,
    streams: Vec<MediaSection<'a>>,
}

/// An `m=` line and the lines below it.
struct MediaSection<'a> {
    kind: &'a str,
    port: u16,
    protocol: &'a str,
    payload_types: Vec<&'a str>,
    /// The `a=rtpmap:` lines: payload type and encoding.
    encodings: Vec<(&'a str, &'a str)>,
    ip: Option<IpAddr>,
    /// The first `a=crypto:` line with our suite: tag and key.
    crypto: Option<(&'a str, MasterKey)>,
}

impl<'a> SessionDescription<'a> {
    /// Parses a session description. Invalid UTF-8 gives an empty one.
    fn read(sdp: &'a [u8]) -> Self {
        let text = std::str::from_utf8(sdp).unwrap_or_default();
        // The first part is the session, and each other part is a media section.
        let mut sections = text.split("\nm=");
        let session = sections.next().unwrap_or_default();
        Self {
            ip: connection(session),
            streams: sections.filter_map(MediaSection::read).collect(),
        }
    }

    /// The first active stream of this kind for which `payload_type` finds the codec.
    fn remote<'s>(
        &'s self,
        kind: &str,
        payload_type: impl Fn(&'s MediaSection<'a>) -> Option<&'a str>,
    ) -> Option<RemoteStream> {
        let is_active = |stream: &&MediaSection| stream.kind == kind && stream.port != 0;
        self.streams.iter().filter(is_active).find_map(|stream| {
            Some(RemoteStream {
                address: SocketAddr::new(stream.ip.or(self.ip)?, stream.port),
                payload_type: payload_type(stream)?.parse().ok()?,
                key: stream.crypto.map(|(_, key)| key),
            })
        })
    }
}

impl<'a> MediaSection<'a> {
    fn read(section: &'a str) -> Option<Self> {
        let mut words = section.lines().next()?.split_whitespace();
        let rtpmaps = section
            .lines()
            .filter_map(|line| line.strip_prefix("a=rtpmap:"));
        Some(Self {
            kind: words.next()?,
            port: words.next()?.parse().ok()?,
            protocol: words.next()?,
            payload_types: words.collect(),
            encodings: rtpmaps.filter_map(|map| map.split_once(' ')).collect(),
            ip: connection(section),
            crypto: section.lines().find_map(crypto),
        })
    }

    fn payload_type_of(&self, encoding: &str) -> Option<&'a str> {
        let named = |(_, name): &&(&str, &str)| name.trim().eq_ignore_ascii_case(encoding);
        let (payload_type, _) = self.encodings.iter().find(named)?;
        Some(payload_type)
    }

    /// Whether the remote takes digits as RFC 4733 events with our payload type.
    fn offers_digits(&self) -> bool {
        let ours = TELEPHONE_EVENT.to_string();
        self.payload_type_of("telephone-event/8000") == Some(ours.as_str())
    }

    fn refused(&self) -> String {
        let payload_types = self.payload_types.join(" ");
        format!("m={} 0 {} {payload_types}\r\n", self.kind, self.protocol)
    }
}

fn crypto(line: &str) -> Option<(&str, MasterKey)> {
    let mut words = line.strip_prefix("a=crypto:")?.split_whitespace();
    let (tag, suite) = (words.next()?, words.next()?);
    let key = MasterKey::read(words.next()?.strip_prefix("inline:")?)?;
    (suite == srtp::SUITE).then_some((tag, key))
}

fn connection(lines: &str) -> Option<IpAddr> {
    let line = lines.lines().find_map(|line| line.strip_prefix("c=IN "))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOICE: LocalStreams = LocalStreams {
        audio: at(4000),
        video: None,
        hold: None,
        version: 1,
    };
    const VIDEO: LocalStreams = LocalStreams {
        video: Some(at(4002)),
        ..VOICE
    };

    const fn at(port: u16) -> LocalStream {
        let ip = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        LocalStream {
            address: SocketAddr::new(ip, port),
            key: None,
        }
    }

    fn encrypted() -> Result<LocalStreams, Error> {
        let key = Some(MasterKey::random()?);
        let audio = LocalStream { key, ..at(4000) };
        Ok(LocalStreams { audio, ..VOICE })
    }

    const OFFERED: &[u8] = b"v=0\r\nc=IN IP4 10.0.0.1\r\nm=audio 1 RTP/AVP 0 8\r\na=x\r\n\
                             m=video 2 RTP/AVP 99 100\r\na=rtpmap:99 H264/90000\r\na=rtpmap:100 VP8/90000\r\n";

    const VOICE_OFFERED: &[u8] = b"v=0\r\nc=IN IP4 10.0.0.1\r\nm=audio 1 RTP/AVP 0 8\r\n";

    #[test]
    fn each_kind_of_hold_is_offered_and_kept_in_an_answer() {
        let kinds = [
            (Hold::SendOnly, "c=IN IP4 127.0.0.1", "a=sendonly"),
            (Hold::SendOnlyInPcma, " 8 0", "a=sendonly"),
            (Hold::Inactive, "c=IN IP4 127.0.0.1", "a=inactive"),
            (Hold::ZeroAddress, "c=IN IP4 0.0.0.0", "a=sendrecv"),
        ];
        for (hold, address, direction) in kinds {
            let held = LocalStreams {
                hold: Some(hold),
                ..VOICE
            };
            for text in [offer(held), answer(held, OFFERED)] {
                for line in [address, direction] {
                    assert!(text.contains(line), "{hold:?}: {text}");
                }
            }
        }
    }

    #[test]
    fn an_offer_can_be_parsed() -> Result<(), Error> {
        for address in ["127.0.0.2:40000", "[::1]:40002"] {
            let audio: SocketAddr = address.parse().map_err(|_| Error::Stopped)?;
            let video = SocketAddr::new(audio.ip(), 40004);
            let receiver = |address| LocalStream { address, key: None };
            let local = LocalStreams {
                audio: receiver(audio),
                video: Some(receiver(video)),
                ..VOICE
            };
            let offer = offer(local);
            assert_eq!(super::audio(offer.as_bytes())?.address, audio);
            let expected = RemoteStream {
                address: video,
                payload_type: 96,
                key: None,
            };
            assert_eq!(super::video(offer.as_bytes()), Some(expected));
        }
        Ok(())
    }

    #[test]
    fn an_encrypted_leg_answers_with_its_own_key_and_the_offered_tag() -> Result<(), Error> {
        let (theirs, ours) = (MasterKey::random()?, encrypted()?);
        let offered = format!(
            "v=0\r\nc=IN IP4 10.0.0.1\r\nm=audio 1 RTP/SAVP 0\r\na=crypto:1 AEAD_AES_256_GCM inline:AAAA\r\n\
             a=crypto:2 AES_CM_128_HMAC_SHA1_80 inline:{}|2^31\r\n",
            theirs.inline()
        );
        assert_eq!(super::audio(offered.as_bytes())?.key, Some(theirs));
        let answer = answer(ours, offered.as_bytes());
        assert!(answer.contains("m=audio 4000 RTP/SAVP 0\r\n"), "{answer}");
        assert!(answer.contains("\na=crypto:2 AES_CM_128_"), "{answer}");
        assert_eq!(super::audio(answer.as_bytes())?.key, ours.audio.key);
        Ok(())
    }

    #[test]
    fn an_encrypted_leg_refuses_an_unencrypted_stream() -> Result<(), Error> {
        let answer = answer(encrypted()?, OFFERED);
        assert!(answer.contains("m=audio 0 RTP/AVP 0 8\r\n"), "{answer}");
        Ok(())
    }

    #[test]
    fn a_phone_without_a_camera_refuses_video() {
        let expected = answer(VOICE, VOICE_OFFERED) + "m=video 0 RTP/AVP 99 100\r\n";
        assert_eq!(answer(VOICE, OFFERED), expected);
    }

    #[test]
    fn a_phone_with_a_camera_accepts_vp8_with_the_offered_payload_type() {
        let expected = answer(VOICE, VOICE_OFFERED)
            + "m=video 4002 RTP/AVP 100\r\na=rtpmap:100 VP8/90000\r\na=sendrecv\r\n";
        assert_eq!(answer(VIDEO, OFFERED), expected);
        let theirs = video(OFFERED).map(|theirs| (theirs.address.to_string(), theirs.payload_type));
        assert_eq!(theirs, Some(("10.0.0.1:2".to_owned(), 100)));
    }

    #[test]
    fn video_without_vp8_and_a_second_video_stream_are_refused() {
        let offered =
            b"v=0\r\nm=video 2 RTP/AVP 99\r\na=rtpmap:99 H264/90000\r\nm=audio 1 RTP/AVP 0\r\n\
                        m=video 3 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\n\
                        m=video 4 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\n";
        let answer = answer(VIDEO, offered);
        let streams: Vec<&str> = answer.lines().filter(|l| l.starts_with("m=")).collect();
        assert_eq!(
            streams,
            [
                "m=video 0 RTP/AVP 99",
                "m=audio 4000 RTP/AVP 0",
                "m=video 4002 RTP/AVP 96",
                "m=video 0 RTP/AVP 96"
            ]
        );
    }

    #[test]
    fn the_address_of_a_stream_overrides_that_of_the_session() -> Result<(), Error> {
        let sdp = b"v=0\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8 0\r\n\
                    c=IN IP4 10.0.0.2\r\nm=video 5000 RTP/AVP 96\r\nc=IN IP4 10.0.0.3\r\n";
        assert_eq!(audio(sdp)?.address.to_string(), "10.0.0.2:4000");
        Ok(())
    }

    #[test]
    fn a_stream_without_pcmu_or_port_is_refused() {
        for media_line in [
            "m=audio 4000 RTP/AVP 8",
            "m=audio 0 RTP/AVP 0",
            "m=video 1 RTP/AVP 0",
        ] {
            let sdp = format!("c=IN IP4 10.0.0.1\r\n{media_line}\r\n");
            assert!(audio(sdp.as_bytes()).is_err(), "{media_line}");
        }
    }
}
