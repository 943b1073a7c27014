//! Session descriptions, as far as one PCMU stream needs them.

use std::net::{IpAddr, SocketAddr};

use crate::Error;

/// The offer of a leg that receives PCMU at `rtp`.
pub(crate) fn offer(rtp: SocketAddr) -> String {
    let family = if rtp.is_ipv4() { "IP4" } else { "IP6" };
    let ip = rtp.ip();
    let port = rtp.port();
    [
        "v=0".to_owned(),
        format!("o=ringback {port} 1 IN {family} {ip}"),
        "s=-".to_owned(),
        format!("c=IN {family} {ip}"),
        "t=0 0".to_owned(),
        format!("m=audio {port} RTP/AVP 0"),
        "a=rtpmap:0 PCMU/8000".to_owned(),
        "a=ptime:20".to_owned(),
        "a=sendrecv".to_owned(),
        String::new(),
    ]
    .join("\r\n")
}

/// The answer of the same leg to an offer. Every offered stream has its line in an answer: port 0
/// refuses what comes after the audio (video).
pub(crate) fn answer(rtp: SocketAddr, offered: &[u8]) -> String {
    let offered = String::from_utf8_lossy(offered);
    let streams = offered.lines().filter_map(|line| line.strip_prefix("m="));
    let others = streams.filter(|stream| !stream.starts_with("audio "));
    others.fold(offer(rtp), |answer, stream| answer + &refused(stream))
}

fn refused(stream: &str) -> String {
    let mut words = stream.split_whitespace();
    let kind = words.next().unwrap_or_default();
    let rest: Vec<&str> = words.skip(1).collect();
    format!("m={kind} 0 {}\r\n", rest.join(" "))
}

/// Where the other side wants its PCMU to be sent.
pub(crate) fn audio_address(sdp: &[u8]) -> Result<SocketAddr, Error> {
    let text = String::from_utf8_lossy(sdp);
    parse(&text).ok_or_else(|| Error::Sdp(text.into_owned()))
}

fn parse(text: &str) -> Option<SocketAddr> {
    let (session, audio) = text.split_once("m=audio ")?;
    // Other media (video) may follow; their addresses are not ours.
    let audio = audio.split("\nm=").next()?;
    let mut media_line = audio.lines().next()?.split_whitespace();
    let port = media_line.next()?.parse().ok().filter(|&port| port != 0)?;
    let pcmu = media_line.skip(1).any(|payload_type| payload_type == "0");
    let ip = connection(audio).or_else(|| connection(session))?;
    pcmu.then(|| SocketAddr::new(ip, port))
}

fn connection(lines: &str) -> Option<IpAddr> {
    let line = lines.lines().find_map(|line| line.strip_prefix("c=IN "))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_describe_we_can_read() -> Result<(), Error> {
        for address in ["127.0.0.2:40000", "[::1]:40002"] {
            let address: SocketAddr = address.parse().map_err(|_| Error::Stopped)?;
            assert_eq!(audio_address(offer(address).as_bytes())?, address);
        }
        Ok(())
    }

    #[test]
    fn an_answer_refuses_the_streams_after_the_audio() {
        let rtp = SocketAddr::from(([127, 0, 0, 1], 4000));
        let offered = b"v=0\r\nm=audio 1 RTP/AVP 0 8\r\na=x\r\nm=video 2 RTP/AVP 96 97\r\n";
        let expected = offer(rtp) + "m=video 0 RTP/AVP 96 97\r\n";
        assert_eq!(answer(rtp, offered), expected);
    }

    #[test]
    fn the_streams_own_address_wins_over_the_sessions() -> Result<(), Error> {
        let sdp = b"v=0\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8 0\r\n\
                    c=IN IP4 10.0.0.2\r\nm=video 5000 RTP/AVP 96\r\nc=IN IP4 10.0.0.3\r\n";
        assert_eq!(audio_address(sdp)?.to_string(), "10.0.0.2:4000");
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
            assert!(audio_address(sdp.as_bytes()).is_err(), "{media_line}");
        }
    }
}
