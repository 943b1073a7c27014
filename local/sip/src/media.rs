use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{net::UdpSocket, sync::watch, time::MissedTickBehavior};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{Error, sdp};

const PACKET_EVERY: Duration = Duration::from_millis(20);
const HEADER_BYTES: usize = 12;
/// 20 ms of 8 kHz audio.
const PAYLOAD_BYTES: usize = 160;
const MARK_BYTES: usize = 8;
const PCMU: u8 = 0;

/// What a leg sends instead of speech: its own address, over and over. PCMU passes a PBX
/// unchanged, so the other leg can tell whose audio it hears.
type Mark = [u8; MARK_BYTES];

/// Counted under this: audio that no simulated leg sends.
const NOBODYS: Mark = [0; MARK_BYTES];

/// One leg's audio: a real RTP socket which sends a recognisable PCMU payload every 20 ms from the
/// moment the other side's address is known, and counts what arrives.
#[derive(Debug, Clone)]
pub struct Media {
    local: SocketAddr,
    mark: Mark,
    heard: watch::Sender<HashMap<Mark, u64>>,
    socket: Arc<UdpSocket>,
    /// Set by the first session description of the other side; a later one moves the stream.
    remote: watch::Sender<Option<SocketAddr>>,
    /// Ends the two tasks with the last clone.
    _stop: Arc<DropGuard>,
}

impl Media {
    pub(crate) async fn open(ip: IpAddr) -> Result<Self, Error> {
        let socket = UdpSocket::bind((ip, 0)).await;
        let socket = Arc::new(socket.map_err(|source| failed("opening an RTP socket", source))?);
        let local = socket.local_addr();
        let local = local.map_err(|source| failed("reading the RTP socket's address", source))?;
        let stop = CancellationToken::new();
        let media = Self {
            local,
            mark: mark_of(local),
            heard: watch::Sender::default(),
            socket,
            remote: watch::Sender::default(),
            _stop: Arc::new(stop.clone().drop_guard()),
        };
        media.spawn_receiver(stop.clone());
        media.spawn_sender(stop);
        Ok(media)
    }

    pub(crate) fn offer(&self) -> Vec<u8> {
        sdp::offer(self.local).into_bytes()
    }

    pub(crate) fn answer(&self, offered: &[u8]) -> Vec<u8> {
        sdp::answer(self.local, offered).into_bytes()
    }

    /// Starts sending to where the other side's session description says.
    pub(crate) fn connect(&self, their_description: &[u8]) -> Result<(), Error> {
        let remote = sdp::audio_address(their_description)?;
        self.remote.send_replace(Some(remote));
        Ok(())
    }

    /// Stops sending; what still arrives is still counted.
    pub(crate) fn mute(&self) {
        self.remote.send_replace(None);
    }

    /// Where this leg receives RTP.
    pub fn address(&self) -> SocketAddr {
        self.local
    }

    /// How many PCMU packets have arrived, whoever sent them.
    pub fn received(&self) -> u64 {
        self.heard.borrow().values().sum()
    }

    /// How many packets have arrived that hold what the other leg sends, bit for bit.
    pub fn received_from(&self, other: &Self) -> u64 {
        self.heard.borrow().get(&other.mark).copied().unwrap_or(0)
    }

    /// Waits until this leg has heard the other one for a tenth of a second (five packets).
    pub async fn hears(&self, other: &Self, within: Duration) -> Result<(), Error> {
        let mut heard = self.heard.subscribe();
        let enough = heard.wait_for(|heard| heard.get(&other.mark).is_some_and(|&n| n >= 5));
        let result = tokio::time::timeout(within, enough).await.map(|_| ());
        result.map_err(|_| Error::Silent {
            waited: within,
            packets: self.received(),
        })
    }

    fn spawn_receiver(&self, stop: CancellationToken) {
        let (socket, heard) = (self.socket.clone(), self.heard.clone());
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            let mut packet = [0; 2048];
            while let Ok(size) = socket.recv(&mut packet).await {
                if let Some(mark) = mark_in(&packet[..size]) {
                    heard.send_modify(|heard| *heard.entry(mark).or_default() += 1);
                }
            }
        }));
    }

    fn spawn_sender(&self, stop: CancellationToken) {
        let (socket, mark) = (self.socket.clone(), self.mark);
        let remote = self.remote.subscribe();
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            let mut clock = tokio::time::interval(PACKET_EVERY);
            clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for sequence in 0_u32.. {
                clock.tick().await;
                let Some(remote) = *remote.borrow() else {
                    continue;
                };
                // An unreachable peer is a silent one; the other leg's count will tell.
                let _ = socket.send_to(&rtp_packet(sequence, mark), remote).await;
            }
        }));
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

fn rtp_packet(sequence: u32, mark: Mark) -> Vec<u8> {
    const VERSION_2: u8 = 0x80;
    let samples = sequence.wrapping_mul(PAYLOAD_BYTES as u32);
    let mut packet = Vec::with_capacity(HEADER_BYTES + PAYLOAD_BYTES);
    packet.extend([VERSION_2, PCMU]);
    packet.extend((sequence as u16).to_be_bytes());
    packet.extend(samples.to_be_bytes());
    // The stream's id (SSRC): as unique as the mark.
    packet.extend(&mark[MARK_BYTES - 4..]);
    packet.extend(mark.iter().cycle().take(PAYLOAD_BYTES));
    packet
}

/// Whose audio a PCMU packet holds; [`NOBODYS`] when it is not one mark from start to end.
fn mark_in(packet: &[u8]) -> Option<Mark> {
    let payload_type = packet.get(1)? & 0x7f;
    let payload = packet.get(HEADER_BYTES..)?;
    let mark = *payload.first_chunk::<MARK_BYTES>()?;
    let intact = payload.iter().eq(mark.iter().cycle().take(payload.len()));
    (payload_type == PCMU).then_some(if intact { mark } else { NOBODYS })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(2);

    async fn leg() -> Result<Media, Error> {
        Media::open(IpAddr::from([127, 0, 0, 1])).await
    }

    #[tokio::test]
    async fn two_connected_legs_hear_each_other() -> Result<(), Error> {
        let (caller, phone) = (leg().await?, leg().await?);
        caller.connect(&phone.offer())?;
        phone.connect(&caller.offer())?;
        caller.hears(&phone, SOON).await?;
        phone.hears(&caller, SOON).await
    }

    #[tokio::test]
    async fn a_leg_is_not_taken_for_another() -> Result<(), Error> {
        let (caller, phone, stranger) = (leg().await?, leg().await?, leg().await?);
        stranger.connect(&phone.offer())?;
        phone.hears(&stranger, SOON).await?;
        let result = phone.hears(&caller, Duration::from_millis(50)).await;
        assert!(matches!(result, Err(Error::Silent { packets, .. }) if packets > 0));
        Ok(())
    }

    #[test]
    fn other_codecs_and_broken_packets_do_not_count() {
        let mut packet = rtp_packet(1, *b"RB123456");
        assert_eq!(mark_in(&packet), Some(*b"RB123456"));
        packet[1] = 8;
        assert_eq!(mark_in(&packet), None);
        assert_eq!(mark_in(&packet[..13]), None);
    }
}
