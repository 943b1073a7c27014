//! RTP streams of recognisable packets.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{net::UdpSocket, sync::watch, time::MissedTickBehavior};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    Error,
    srtp::{self, MasterKey, Session},
};

const HEADER_BYTES: usize = 12;
const MARK_BYTES: usize = 8;
const MARKER_BIT: u8 = 0x80;

/// What a leg sends instead of speech and pictures: its own address, over and over. A PBX passes
/// PCMU and VP8 on unchanged, so the other leg can tell whose packets it receives.
type Mark = [u8; MARK_BYTES];

/// Counted under this: packets that no simulated leg sends.
const NOBODYS: Mark = [0; MARK_BYTES];

/// What a stream's packets hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// G.711 µ-law.
    Pcmu,
    /// VP8 (RFC 7741).
    Vp8,
}

impl Codec {
    /// The number that stands for this codec in our offers: PCMU's is fixed, VP8's is a dynamic one.
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

    /// Ticks of the codec's clock (8 kHz, 90 kHz) from one packet to the next.
    fn ticks(self) -> u32 {
        match self {
            Self::Pcmu => 160,
            Self::Vp8 => 3_600,
        }
    }

    /// What stands before the marks. Of VP8: a descriptor that says "start of a frame's first
    /// partition", then a key frame's tag, start code and size, 320 × 240.
    fn prelude(self) -> &'static [u8] {
        match self {
            Self::Pcmu => &[],
            Self::Vp8 => &[
                0x10, 0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00,
            ],
        }
    }

    /// How many bytes of marks a packet holds: for PCMU, one a sample.
    fn body_bytes(self) -> usize {
        match self {
            Self::Pcmu => 160,
            Self::Vp8 => 800,
        }
    }

    /// Each VP8 packet is a whole frame, and says so.
    fn marker_bit(self) -> u8 {
        match self {
            Self::Pcmu => 0,
            Self::Vp8 => MARKER_BIT,
        }
    }
}

/// The other side of a stream, as its session description says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) address: SocketAddr,
    /// The number by which both sides call the codec.
    pub(crate) payload_type: u8,
    /// What the other side encrypts its packets with; without one, it sends in clear.
    pub(crate) key: Option<MasterKey>,
}

/// Whether streams are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protection {
    /// RTP, whatever the other side would like.
    Clear,
    /// SRTP, or nothing: what arrives in clear does not count.
    Srtp,
}

/// A real RTP socket, which sends from the moment the other side is known, and counts what arrives.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    codec: Codec,
    local: SocketAddr,
    mark: Mark,
    /// What this stream's own packets are encrypted with, if they are.
    key: Option<MasterKey>,
    received: watch::Sender<HashMap<Mark, u64>>,
    socket: Arc<UdpSocket>,
    /// Set by the first session description of the other side; a later one moves the stream.
    remote: watch::Sender<Option<Remote>>,
    /// How the other side's packets are read: the codec's number, and their key. What arrives under other numbers is
    /// another codec's.
    theirs: watch::Sender<(u8, Option<MasterKey>)>,
    /// Ends the two tasks with the last clone.
    _stop: Arc<DropGuard>,
}

impl Stream {
    pub(crate) async fn open(
        codec: Codec,
        ip: IpAddr,
        protection: Protection,
    ) -> Result<Self, Error> {
        let socket = UdpSocket::bind((ip, 0)).await;
        let socket = Arc::new(socket.map_err(|source| failed("opening an RTP socket", source))?);
        let local = socket.local_addr();
        let local = local.map_err(|source| failed("reading the RTP socket's address", source))?;
        let stop = CancellationToken::new();
        let stream = Self {
            codec,
            local,
            mark: mark_of(local),
            key: match protection {
                Protection::Clear => None,
                Protection::Srtp => Some(MasterKey::random()?),
            },
            received: watch::Sender::default(),
            socket,
            remote: watch::Sender::default(),
            theirs: watch::Sender::new((codec.payload_type(), None)),
            _stop: Arc::new(stop.clone().drop_guard()),
        };
        stream.spawn_receiver(stop.clone());
        stream.spawn_sender(stop)?;
        Ok(stream)
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Starts sending, or goes on to another place.
    pub(crate) fn connect(&self, remote: Remote) {
        self.theirs.send_replace((remote.payload_type, remote.key));
        self.remote.send_replace(Some(remote));
    }

    /// Stops sending; what still arrives is still counted.
    pub(crate) fn mute(&self) {
        self.remote.send_replace(None);
    }

    pub(crate) fn is_sending(&self) -> bool {
        self.remote.borrow().is_some()
    }

    /// What the other side needs to read this stream's packets.
    pub(crate) fn key(&self) -> Option<MasterKey> {
        self.key
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.borrow().values().sum()
    }

    pub(crate) fn received_from(&self, other: &Self) -> u64 {
        let received = self.received.borrow();
        received.get(&other.mark).copied().unwrap_or(0)
    }

    /// Whether five packets of the other stream arrive in time.
    pub(crate) async fn receives(&self, other: &Self, within: Duration) -> bool {
        let mut received = self.received.subscribe();
        let enough = received.wait_for(|received| received.get(&other.mark) >= Some(&5));
        let result = tokio::time::timeout(within, enough).await;
        result.is_ok_and(|enough| enough.is_ok())
    }

    fn spawn_receiver(&self, stop: CancellationToken) {
        let (socket, received) = (self.socket.clone(), self.received.clone());
        let (codec, theirs, encrypted) = (self.codec, self.theirs.subscribe(), self.key.is_some());
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            let mut packet = [0; 2048];
            let mut decryption = Decryption::default();
            while let Ok(size) = socket.recv(&mut packet).await {
                let (payload_type, key) = *theirs.borrow();
                let packet = match encrypted {
                    true => decryption.read(&packet[..size], key),
                    false => Some(packet[..size].to_vec()),
                };
                let mark = packet.and_then(|packet| mark_in(&packet, codec, payload_type));
                if let Some(mark) = mark {
                    received.send_modify(|received| *received.entry(mark).or_default() += 1);
                }
            }
        }));
    }

    fn spawn_sender(&self, stop: CancellationToken) -> Result<(), Error> {
        let (socket, codec, mark) = (self.socket.clone(), self.codec, self.mark);
        let encryption = self.key.map(Session::of).transpose()?;
        let remote = self.remote.subscribe();
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            let mut clock = tokio::time::interval(codec.packet_every());
            clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for sequence in 0_u32.. {
                clock.tick().await;
                let Some(remote) = *remote.borrow() else {
                    continue;
                };
                let mut packet = packet(codec, remote.payload_type, sequence, mark);
                if let Some(encryption) = &encryption
                    && encryption.protect(&mut packet, sequence.into()).is_err()
                {
                    return;
                }
                // An unreachable peer is a silent one; the other leg's count will tell.
                let _ = socket.send_to(&packet, remote.address).await;
            }
        }));
        Ok(())
    }
}

/// Reads the other side's encrypted packets.
#[derive(Default)]
struct Decryption {
    key: Option<MasterKey>,
    session: Option<Session>,
    /// The latest packet's index, for the indexes of those after it.
    latest: Option<u64>,
}

impl Decryption {
    /// The packet in clear; `None` when it is not encrypted with this key.
    fn read(&mut self, packet: &[u8], key: Option<MasterKey>) -> Option<Vec<u8>> {
        if self.key != key {
            let session = key.and_then(|key| Session::of(key).ok());
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

fn failed(doing: &'static str, source: std::io::Error) -> Error {
    Error::Socket { doing, source }
}

fn mark_of(address: SocketAddr) -> Mark {
    let mut mark = [0; MARK_BYTES];
    match address.ip() {
        IpAddr::V4(ip) => mark[2..6].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => mark[2..6].copy_from_slice(&ip.octets()[12..]),
    }
    mark[..2].copy_from_slice(b"RB");
    mark[6..].copy_from_slice(&address.port().to_be_bytes());
    mark
}

fn packet(codec: Codec, payload_type: u8, sequence: u32, mark: Mark) -> Vec<u8> {
    const VERSION_2: u8 = 0x80;
    let time = sequence.wrapping_mul(codec.ticks());
    let size = HEADER_BYTES + codec.prelude().len() + codec.body_bytes();
    let mut packet = Vec::with_capacity(size);
    packet.extend([VERSION_2, codec.marker_bit() | payload_type]);
    packet.extend((sequence as u16).to_be_bytes());
    packet.extend(time.to_be_bytes());
    // The stream's id (SSRC): as unique as the mark.
    packet.extend(&mark[MARK_BYTES - 4..]);
    packet.extend(codec.prelude());
    packet.extend(mark.iter().cycle().take(codec.body_bytes()));
    packet
}

/// Whose packet it is; [`NOBODYS`] when it is not one mark from start to end, `None` when it is of
/// another codec.
fn mark_in(packet: &[u8], codec: Codec, payload_type: u8) -> Option<Mark> {
    if packet.get(1)? & !MARKER_BIT != payload_type {
        return None;
    }
    let payload = packet.get(HEADER_BYTES..)?;
    Some(mark_of_payload(payload, codec).unwrap_or(NOBODYS))
}

fn mark_of_payload(payload: &[u8], codec: Codec) -> Option<Mark> {
    let body = payload.strip_prefix(codec.prelude())?;
    let mark = *body.first_chunk::<MARK_BYTES>()?;
    let intact = body.iter().eq(mark.iter().cycle().take(body.len()));
    intact.then_some(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOMEBODYS: Mark = *b"RB123456";

    #[test]
    fn other_codecs_and_broken_packets_do_not_count() {
        let mut speech = packet(Codec::Pcmu, 0, 1, SOMEBODYS);
        assert_eq!(mark_in(&speech, Codec::Pcmu, 0), Some(SOMEBODYS));
        speech[1] = 8;
        assert_eq!(mark_in(&speech, Codec::Pcmu, 0), None);
        assert_eq!(mark_in(&speech[..11], Codec::Pcmu, 8), None);
    }

    #[test]
    fn what_was_changed_on_its_way_is_nobodys() {
        let mut speech = packet(Codec::Pcmu, 0, 1, SOMEBODYS);
        speech[HEADER_BYTES + 100] ^= 1;
        assert_eq!(mark_in(&speech, Codec::Pcmu, 0), Some(NOBODYS));
        let mut picture = packet(Codec::Vp8, 100, 1, SOMEBODYS);
        picture[HEADER_BYTES] ^= 1;
        assert_eq!(mark_in(&picture, Codec::Vp8, 100), Some(NOBODYS));
    }

    #[test]
    fn a_picture_is_a_whole_key_frame_under_the_number_agreed_on() {
        let picture = packet(Codec::Vp8, 100, 2, SOMEBODYS);
        assert_eq!(picture[1], MARKER_BIT | 100);
        assert_eq!(picture[4..8], 7_200_u32.to_be_bytes());
        assert_eq!(mark_in(&picture, Codec::Vp8, 100), Some(SOMEBODYS));
        assert_eq!(mark_in(&picture, Codec::Vp8, 96), None);
    }
}
