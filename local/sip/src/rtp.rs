//! RTP streams with recognisable packets.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    Error,
    srtp::{self, MasterKey, SrtpContext},
};

const HEADER_BYTES: usize = 12;
const TAG_BYTES: usize = 8;
const MARKER_BIT: u8 = 0x80;

/// The payload of a leg in place of speech and pictures: its own address, repeated. A PBX forwards PCMU and VP8
/// unchanged, so the other leg recognises the sender.
type SenderTag = [u8; TAG_BYTES];

const TAG_BEGINS: &[u8] = b"RB";

/// The key for packets that no simulated leg sends, such as music, or audio that a real phone has encoded again.
const UNKNOWN_SENDER: SenderTag = [0; TAG_BYTES];

/// The key for such packets that contain only silence. PCMU has two codes for it.
const SILENCE: SenderTag = [0xff; TAG_BYTES];

/// The payload type of digits, which is Asterisk's, too.
pub(crate) const TELEPHONE_EVENT: u8 = 101;

/// The keys in the order of their event codes (RFC 4733, section 3.2).
const KEYS: &str = "0123456789*#ABCD";

/// The codec of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// G.711 µ-law.
    Pcmu,
    /// VP8 (RFC 7741).
    Vp8,
}

impl Codec {
    /// The payload type in our offers: PCMU has a fixed number, VP8 a dynamic one.
    pub(crate) fn payload_type(self) -> u8 {
        match self {
            Self::Pcmu => 0,
            Self::Vp8 => 96,
        }
    }

    fn packet_every(self) -> Duration {
        match self {
            Self::Pcmu => Duration::from_millis(20),
            Self::Vp8 => Duration::from_millis(40),
        }
    }

    /// The timestamp step per packet, in ticks of the codec's clock (8 kHz, 90 kHz).
    fn ticks(self) -> u32 {
        match self {
            Self::Pcmu => 160,
            Self::Vp8 => 3_600,
        }
    }

    /// The bytes before the tags. For VP8: a payload descriptor with the S bit (start of a partition), then the key
    /// frame header: frame tag, start code, and the size 320 × 240.
    fn payload_header(self) -> &'static [u8] {
        match self {
            Self::Pcmu => &[],
            Self::Vp8 => &[
                0x10, 0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00,
            ],
        }
    }

    /// How many bytes of tags a packet contains. For PCMU, one byte per sample.
    fn payload_bytes(self) -> usize {
        match self {
            Self::Pcmu => 160,
            Self::Vp8 => 800,
        }
    }

    /// The RTP marker bit. For VP8 it means the last packet of a frame, and each packet is a whole frame.
    fn marker_bit(self) -> u8 {
        match self {
            Self::Pcmu => 0,
            Self::Vp8 => MARKER_BIT,
        }
    }
}

/// The remote side of a stream, from its session description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RemoteStream {
    pub(crate) address: SocketAddr,
    /// The payload type that both sides use for the codec.
    pub(crate) payload_type: u8,
    /// The key of the remote's packets. `None` when the remote does not encrypt.
    pub(crate) key: Option<MasterKey>,
}

/// Whether streams are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// RTP only.
    Clear,
    /// SRTP only: packets that do not decrypt are not counted.
    Srtp,
}

/// A real RTP socket. Sends once the remote address is known, and counts the packets that arrive.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    codec: Codec,
    local: SocketAddr,
    tag: SenderTag,
    /// The key for our own packets. `None` without SRTP.
    key: Option<MasterKey>,
    received: watch::Sender<HashMap<SenderTag, u64>>,
    socket: Arc<UdpSocket>,
    /// Set by the first remote session description. A later one moves the stream.
    remote: watch::Sender<Option<RemoteStream>>,
    /// The payload type and the key of the remote's packets. Packets with another payload type belong to another codec.
    inbound: watch::Sender<(u8, Option<MasterKey>)>,
    /// Keys to press, and the digits that have arrived.
    keys: mpsc::UnboundedSender<char>,
    digits: watch::Sender<String>,
    /// Stops both tasks when the last clone is dropped.
    _stop: Arc<DropGuard>,
}

impl Stream {
    pub(crate) async fn open(
        codec: Codec,
        ip: IpAddr,
        encryption: Encryption,
    ) -> Result<Self, Error> {
        let socket = UdpSocket::bind((ip, 0)).await;
        let socket = Arc::new(socket.map_err(|source| failed("opening an RTP socket", source))?);
        let local = socket.local_addr();
        let local = local.map_err(|source| failed("reading the RTP socket's address", source))?;
        let stop = CancellationToken::new();
        let (keys, pressed) = mpsc::unbounded_channel();
        let stream = Self {
            codec,
            local,
            tag: sender_tag(local),
            key: match encryption {
                Encryption::Clear => None,
                Encryption::Srtp => Some(MasterKey::random()?),
            },
            received: watch::Sender::default(),
            socket,
            remote: watch::Sender::default(),
            inbound: watch::Sender::new((codec.payload_type(), None)),
            keys,
            digits: watch::Sender::default(),
            _stop: Arc::new(stop.clone().drop_guard()),
        };
        stream.spawn_receiver(stop.clone());
        stream.spawn_sender(pressed, stop)?;
        Ok(stream)
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Starts sending to the remote, or switches to a new one.
    pub(crate) fn connect(&self, remote: RemoteStream) {
        self.inbound.send_replace((remote.payload_type, remote.key));
        self.remote.send_replace(Some(remote));
    }

    /// Stops sending. Still counts the packets that arrive.
    pub(crate) fn mute(&self) {
        self.remote.send_replace(None);
    }

    pub(crate) fn is_sending(&self) -> bool {
        self.remote.borrow().is_some()
    }

    /// The key that the remote needs to read our packets.
    pub(crate) fn key(&self) -> Option<MasterKey> {
        self.key
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.borrow().values().sum()
    }

    pub(crate) fn received_from(&self, other: &Self) -> u64 {
        let received = self.received.borrow();
        received.get(&other.tag).copied().unwrap_or(0)
    }

    /// Whether five packets of the other stream arrive in time.
    pub(crate) async fn receives_from(&self, other: &Self, within: Duration) -> bool {
        let mut received = self.received.subscribe();
        let enough = received.wait_for(|received| received.get(&other.tag) >= Some(&5));
        let result = tokio::time::timeout(within, enough).await;
        result.is_ok_and(|enough| enough.is_ok())
    }

    /// How many packets that no simulated leg sent contain more than silence.
    pub(crate) fn received_sound(&self) -> u64 {
        let received = self.received.borrow();
        received.get(&UNKNOWN_SENDER).copied().unwrap_or(0)
    }

    pub(crate) fn press(&self, digit: char) {
        // The sender stops only when the stream is dropped.
        let _ = self.keys.send(digit);
    }

    pub(crate) fn digits(&self) -> String {
        self.digits.borrow().clone()
    }

    fn spawn_receiver(&self, stop: CancellationToken) {
        let (socket, received) = (self.socket.clone(), self.received.clone());
        let digits = self.digits.clone();
        let mut last_digit_at = None;
        let (codec, inbound, encrypted) =
            (self.codec, self.inbound.subscribe(), self.key.is_some());
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            let mut packet = [0; 2048];
            let mut decryptor = PacketDecryptor::default();
            while let Ok(size) = socket.recv(&mut packet).await {
                let (payload_type, key) = *inbound.borrow();
                let packet = match encrypted {
                    true => decryptor.decrypt(&packet[..size], key),
                    false => Some(packet[..size].to_vec()),
                };
                let Some(packet) = packet else { continue };
                if let Some((digit, at)) = ended_digit(&packet)
                    && last_digit_at.replace(at) != Some(at)
                {
                    digits.send_modify(|digits| digits.push(digit));
                }
                if let Some(tag) = tag_in_packet(&packet, codec, payload_type) {
                    received.send_modify(|received| *received.entry(tag).or_default() += 1);
                }
            }
        }));
    }

    fn spawn_sender(
        &self,
        mut pressed: mpsc::UnboundedReceiver<char>,
        stop: CancellationToken,
    ) -> Result<(), Error> {
        let (socket, codec, tag) = (self.socket.clone(), self.codec, self.tag);
        let session = self.key.map(SrtpContext::new).transpose()?;
        let remote = self.remote.subscribe();
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            let mut clock = tokio::time::interval(codec.packet_every());
            // After a pause, continue at the normal rate and do not send the missed packets in a burst.
            clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut key: Option<PressedKey> = None;
            for sequence in 0_u32.. {
                clock.tick().await;
                let Some(remote) = *remote.borrow() else {
                    continue;
                };
                key = key.and_then(PressedKey::next).or_else(|| {
                    let digit = pressed.try_recv().ok()?;
                    PressedKey::new(digit, sequence)
                });
                let mut packet = match key {
                    Some(key) => key.packet(sequence, tag),
                    None => packet(codec, remote.payload_type, sequence, tag),
                };
                if let Some(session) = &session
                    && session.protect(&mut packet, sequence.into()).is_err()
                {
                    return;
                }
                // A send error means that nothing listens there. The receiver's count shows it.
                let _ = socket.send_to(&packet, remote.address).await;
            }
        }));
        Ok(())
    }
}

/// A key that is held down, as one packet every 20 ms in place of the audio.
#[derive(Clone, Copy)]
struct PressedKey {
    event: u8,
    /// The timestamp of all its packets.
    since: u32,
    /// How many packets there have been.
    packets: u16,
}

impl PressedKey {
    /// 100 ms, and the end three times, because packets are lost (RFC 4733, section 2.5.1.4).
    const HELD: u16 = 5;
    const ENDS: u16 = 3;

    fn new(digit: char, sequence: u32) -> Option<Self> {
        let event = KEYS.find(digit)?;
        Some(Self {
            event: u8::try_from(event).ok()?,
            since: sequence.wrapping_mul(Codec::Pcmu.ticks()),
            packets: 1,
        })
    }

    fn next(self) -> Option<Self> {
        let packets = self.packets + 1;
        (packets <= Self::HELD + Self::ENDS).then_some(Self { packets, ..self })
    }

    fn packet(self, sequence: u32, tag: SenderTag) -> Vec<u8> {
        let marker = if self.packets == 1 { MARKER_BIT } else { 0 };
        let mut packet = rtp_header(marker | TELEPHONE_EVENT, sequence, self.since, tag);
        let end = if self.packets > Self::HELD {
            DIGIT_ENDS
        } else {
            0
        };
        let duration = self.packets.min(Self::HELD) * 160;
        // The volume of −10 dBm0.
        packet.extend([self.event, end | 10]);
        packet.extend(duration.to_be_bytes());
        packet
    }
}

/// The E bit of an event.
const DIGIT_ENDS: u8 = 0x80;

/// The digit and its timestamp, if this is the last packet of an event.
fn ended_digit(packet: &[u8]) -> Option<(char, [u8; 4])> {
    let is_event = packet.get(1)? & !MARKER_BIT == TELEPHONE_EVENT;
    let (event, flags) = (*packet.get(HEADER_BYTES)?, *packet.get(HEADER_BYTES + 1)?);
    let digit = KEYS.chars().nth(event.into())?;
    let at = *packet.get(4..)?.first_chunk()?;
    (is_event && flags & DIGIT_ENDS != 0).then_some((digit, at))
}

/// Decrypts the remote's packets.
#[derive(Default)]
struct PacketDecryptor {
    key: Option<MasterKey>,
    session: Option<SrtpContext>,
    /// The highest packet index so far, from which the next one is estimated.
    latest: Option<u64>,
}

impl PacketDecryptor {
    /// Decrypts a packet. `None` when it does not authenticate with this key.
    fn decrypt(&mut self, packet: &[u8], key: Option<MasterKey>) -> Option<Vec<u8>> {
        if self.key != key {
            let session = key.and_then(|key| SrtpContext::new(key).ok());
            *self = Self {
                key,
                session,
                latest: None,
            };
        }
        let index = srtp::index_of(packet, self.latest)?;
        let packet = self.session.as_ref()?.unprotect(packet, index)?;
        self.latest = self.latest.max(Some(index));
        Some(packet)
    }
}

fn failed(operation: &'static str, source: std::io::Error) -> Error {
    Error::Socket { operation, source }
}

fn sender_tag(address: SocketAddr) -> SenderTag {
    let mut tag = [0; TAG_BYTES];
    match address.ip() {
        IpAddr::V4(ip) => tag[2..6].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => tag[2..6].copy_from_slice(&ip.octets()[12..]),
    }
    tag[..2].copy_from_slice(TAG_BEGINS);
    tag[6..].copy_from_slice(&address.port().to_be_bytes());
    tag
}

fn packet(codec: Codec, payload_type: u8, sequence: u32, tag: SenderTag) -> Vec<u8> {
    let time = sequence.wrapping_mul(codec.ticks());
    let mut packet = rtp_header(codec.marker_bit() | payload_type, sequence, time, tag);
    packet.extend(codec.payload_header());
    packet.extend(tag.iter().cycle().take(codec.payload_bytes()));
    packet
}

fn rtp_header(marker_and_type: u8, sequence: u32, time: u32, tag: SenderTag) -> Vec<u8> {
    const VERSION_2: u8 = 0x80;
    let mut header = vec![VERSION_2, marker_and_type];
    header.extend((sequence as u16).to_be_bytes());
    header.extend(time.to_be_bytes());
    // The stream id (SSRC), which is as unique as the tag.
    header.extend(&tag[TAG_BYTES - 4..]);
    header
}

/// The sender of a packet. [`UNKNOWN_SENDER`] when the payload is not one repeated tag, `None` when it has another
/// payload type.
fn tag_in_packet(packet: &[u8], codec: Codec, payload_type: u8) -> Option<SenderTag> {
    if packet.get(1)? & !MARKER_BIT != payload_type {
        return None;
    }
    let payload = packet.get(HEADER_BYTES..)?;
    if codec == Codec::Pcmu && payload.iter().all(|sample| matches!(sample, 0x7f | 0xff)) {
        return Some(SILENCE);
    }
    Some(tag_in_payload(payload, codec).unwrap_or(UNKNOWN_SENDER))
}

fn tag_in_payload(payload: &[u8], codec: Codec) -> Option<SenderTag> {
    let body = payload.strip_prefix(codec.payload_header())?;
    let tag = *body.first_chunk::<TAG_BYTES>()?;
    let intact = body.iter().eq(tag.iter().cycle().take(body.len()));
    (intact && tag.starts_with(TAG_BEGINS)).then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENDER: SenderTag = *b"RB123456";

    #[test]
    fn packets_with_another_payload_type_or_no_header_do_not_count() {
        let mut speech = packet(Codec::Pcmu, 0, 1, SENDER);
        assert_eq!(tag_in_packet(&speech, Codec::Pcmu, 0), Some(SENDER));
        speech[1] = 8;
        assert_eq!(tag_in_packet(&speech, Codec::Pcmu, 0), None);
        assert_eq!(tag_in_packet(&speech[..11], Codec::Pcmu, 8), None);
    }

    #[test]
    fn a_pressed_key_is_one_digit_with_three_last_packets() {
        let mut key = PressedKey::new('#', 7);
        let (mut packets, mut ended) = (Vec::new(), Vec::new());
        while let Some(pressed) = key {
            packets.push(pressed.packet(7 + u32::from(pressed.packets), SENDER));
            ended.extend(packets.last().and_then(|packet| ended_digit(packet)));
            key = pressed.next();
        }
        let at = (7_u32 * 160).to_be_bytes();
        assert_eq!((packets.len(), ended), (8, vec![('#', at); 3]));
        assert_eq!(packets[0][1], MARKER_BIT | TELEPHONE_EVENT);
        assert_eq!(tag_in_packet(&packets[0], Codec::Pcmu, 0), None);
        assert_eq!(PressedKey::new('x', 7).map(|key| key.event), None);
    }

    #[test]
    fn silence_is_no_sound() {
        let mut silence = packet(Codec::Pcmu, 0, 1, SENDER);
        silence[HEADER_BYTES..].fill(0xff);
        assert_eq!(tag_in_packet(&silence, Codec::Pcmu, 0), Some(SILENCE));
    }

    #[test]
    fn a_changed_packet_has_no_known_sender() {
        let mut speech = packet(Codec::Pcmu, 0, 1, SENDER);
        speech[HEADER_BYTES + 100] ^= 1;
        assert_eq!(tag_in_packet(&speech, Codec::Pcmu, 0), Some(UNKNOWN_SENDER));
        let mut picture = packet(Codec::Vp8, 100, 1, SENDER);
        picture[HEADER_BYTES] ^= 1;
        assert_eq!(
            tag_in_packet(&picture, Codec::Vp8, 100),
            Some(UNKNOWN_SENDER)
        );
    }

    #[test]
    fn a_video_packet_is_a_whole_key_frame_with_the_negotiated_payload_type() {
        let picture = packet(Codec::Vp8, 100, 2, SENDER);
        assert_eq!(picture[1], MARKER_BIT | 100);
        assert_eq!(picture[4..8], 7_200_u32.to_be_bytes());
        assert_eq!(tag_in_packet(&picture, Codec::Vp8, 100), Some(SENDER));
        assert_eq!(tag_in_packet(&picture, Codec::Vp8, 96), None);
    }
}
