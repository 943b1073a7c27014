use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    Error,
    rtp::{Codec, Encryption, Stream},
    sdp::{self, Hold},
};

/// The media of one leg: PCMU, and VP8 if the leg has a camera. Sends recognisable packets over real RTP (20 ms of
/// audio, 25 frames a second) once the remote address is known, and counts the packets that arrive.
#[derive(Debug, Clone)]
pub struct Media {
    audio: Stream,
    video: Option<Stream>,
    /// How this leg holds the call, and the version of its session description.
    session: watch::Sender<(Option<Hold>, u32)>,
}

/// The payload type of PCMA.
const PCMA: u8 = 8;

/// Whether a leg supports video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Camera {
    None,
    Vp8,
}

impl Media {
    pub(crate) async fn open(
        ip: IpAddr,
        camera: Camera,
        encryption: Encryption,
    ) -> Result<Self, Error> {
        let audio = Stream::open(Codec::Pcmu, ip, encryption).await?;
        let video = match camera {
            Camera::None => None,
            Camera::Vp8 => Some(Stream::open(Codec::Vp8, ip, encryption).await?),
        };
        Ok(Self {
            audio,
            video,
            session: watch::Sender::new((None, 1)),
        })
    }

    /// New media of the same kind, on other sockets.
    pub(crate) async fn another(&self) -> Result<Self, Error> {
        let camera = match self.video {
            None => Camera::None,
            Some(_) => Camera::Vp8,
        };
        let encryption = match self.audio.key() {
            None => Encryption::Clear,
            Some(_) => Encryption::Srtp,
        };
        let another = Self::open(self.address().ip(), camera, encryption).await?;
        let (hold, version) = *self.session.borrow();
        another.session.send_replace((hold, version + 1));
        Ok(another)
    }

    fn local(&self) -> sdp::LocalStreams {
        let (hold, version) = *self.session.borrow();
        sdp::LocalStreams {
            audio: local_stream(&self.audio),
            video: self.video.as_ref().map(local_stream),
            hold,
            version,
        }
    }

    /// Begins or ends a hold. The next offer says it.
    pub(crate) fn set_hold(&self, hold: Option<Hold>) {
        let next = |(_, version): &(_, u32)| (hold, version + 1);
        self.session.send_modify(|session| *session = next(session));
    }

    pub(crate) fn offer(&self) -> Vec<u8> {
        sdp::offer(self.local()).into_bytes()
    }

    /// Answers an offer. A re-INVITE without a body contains no offer, so the answer is our own offer.
    pub(crate) fn answer(&self, offered: &[u8]) -> Vec<u8> {
        if offered.is_empty() {
            return self.offer();
        }
        sdp::answer(self.local(), offered).into_bytes()
    }

    /// Starts sending to the address in the remote session description. An SRTP leg refuses an unencrypted remote.
    pub(crate) fn connect(&self, their_description: &[u8]) -> Result<(), Error> {
        let mut audio = sdp::audio(their_description)?;
        if self.session.borrow().0 == Some(Hold::SendOnlyInPcma) {
            audio.payload_type = PCMA;
        }
        if self.audio.key().is_some() && audio.key.is_none() {
            return Err(Error::UnencryptedMedia);
        }
        if !self.is_held_silently() {
            self.audio.connect(audio);
        }
        if let Some(video) = &self.video {
            match sdp::video(their_description) {
                Some(remote) => video.connect(remote),
                None => video.mute(),
            }
        }
        Ok(())
    }

    /// Stops sending, as if the network failed. Still counts the packets that arrive.
    pub fn mute(&self) {
        self.audio.mute();
        self.video.iter().for_each(Stream::mute);
    }

    /// A phone that holds with `a=sendonly` keeps sending, because that is the harder case for a PBX.
    fn is_held_silently(&self) -> bool {
        let hold = self.session.borrow().0;
        matches!(hold, Some(Hold::Inactive | Hold::ZeroAddress))
    }

    /// Our address for audio.
    pub fn address(&self) -> SocketAddr {
        self.audio.local()
    }

    /// How many PCMU packets have arrived from any sender.
    pub fn received(&self) -> u64 {
        self.audio.received()
    }

    /// How many audio packets have arrived that exactly match what the other leg sends.
    pub fn received_from(&self, other: &Self) -> u64 {
        self.audio.received_from(&other.audio)
    }

    /// How many audio packets have arrived that are not silence and that no simulated leg sent, such as music.
    pub fn received_sound(&self) -> u64 {
        self.audio.received_sound()
    }

    /// Presses a key: sends a digit, `*` or `#` as an RFC 4733 event.
    pub fn press(&self, digit: char) {
        self.audio.press(digit);
    }

    /// The digits that have arrived as RFC 4733 events, oldest first.
    pub fn digits(&self) -> String {
        self.audio.digits()
    }

    /// Waits until this leg has received 100 ms of audio (five packets) from the other leg.
    pub async fn hears(&self, other: &Self, within: Duration) -> Result<(), Error> {
        if self.audio.receives_from(&other.audio, within).await {
            return Ok(());
        }
        Err(Error::NoAudio {
            waited: within,
            packets: self.received(),
        })
    }

    /// Whether both sides agreed on video, so this leg sends it.
    pub fn sends_video(&self) -> bool {
        self.video.as_ref().is_some_and(Stream::is_sending)
    }

    /// How many VP8 frames have arrived from any sender.
    pub fn frames(&self) -> u64 {
        self.video.as_ref().map_or(0, Stream::received)
    }

    /// How many VP8 frames have arrived that exactly match what the other leg sends.
    pub fn frames_from(&self, other: &Self) -> u64 {
        match (&self.video, &other.video) {
            (Some(ours), Some(theirs)) => ours.received_from(theirs),
            _ => 0,
        }
    }

    /// Waits until this leg has received 200 ms of video (five frames) from the other leg.
    pub async fn sees(&self, other: &Self, within: Duration) -> Result<(), Error> {
        let seen = match (&self.video, &other.video) {
            (Some(ours), Some(theirs)) => ours.receives_from(theirs, within).await,
            _ => false,
        };
        seen.then_some(()).ok_or_else(|| Error::NoVideo {
            waited: within,
            frames: self.frames(),
        })
    }
}

fn local_stream(stream: &Stream) -> sdp::LocalStream {
    sdp::LocalStream {
        address: stream.local(),
        key: stream.key(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(2);
    const SHORT_WAIT: Duration = Duration::from_millis(50);

    async fn leg(camera: Camera) -> Result<Media, Error> {
        leg_with(camera, Encryption::Clear).await
    }

    async fn leg_with(camera: Camera, encryption: Encryption) -> Result<Media, Error> {
        Media::open(IpAddr::from([127, 0, 0, 1]), camera, encryption).await
    }

    fn join(caller: &Media, phone: &Media) -> Result<(), Error> {
        let offer = caller.offer();
        phone.connect(&offer)?;
        caller.connect(&phone.answer(&offer))
    }

    #[tokio::test]
    async fn two_connected_legs_hear_each_other() -> Result<(), Error> {
        let (caller, phone) = (leg(Camera::None).await?, leg(Camera::None).await?);
        join(&caller, &phone)?;
        caller.hears(&phone, SOON).await?;
        phone.hears(&caller, SOON).await
    }

    #[tokio::test]
    async fn two_legs_with_cameras_see_each_other() -> Result<(), Error> {
        let (caller, phone) = (leg(Camera::Vp8).await?, leg(Camera::Vp8).await?);
        join(&caller, &phone)?;
        caller.sees(&phone, SOON).await?;
        phone.sees(&caller, SOON).await?;
        phone.hears(&caller, SOON).await
    }

    #[tokio::test]
    async fn two_encrypted_legs_hear_and_see_each_other() -> Result<(), Error> {
        let caller = leg_with(Camera::Vp8, Encryption::Srtp).await?;
        let phone = leg_with(Camera::Vp8, Encryption::Srtp).await?;
        join(&caller, &phone)?;
        caller.hears(&phone, SOON).await?;
        phone.hears(&caller, SOON).await?;
        caller.sees(&phone, SOON).await?;
        phone.sees(&caller, SOON).await
    }

    #[tokio::test]
    async fn an_encrypted_leg_refuses_an_unencrypted_one() -> Result<(), Error> {
        let caller = leg_with(Camera::None, Encryption::Srtp).await?;
        let phone = leg(Camera::None).await?;
        let offer = caller.offer();
        phone.connect(&offer)?;
        assert!(caller.connect(&phone.answer(&offer)).is_err());
        let result = caller.hears(&phone, Duration::from_millis(300)).await;
        assert!(matches!(result, Err(Error::NoAudio { packets: 0, .. })));
        Ok(())
    }

    #[tokio::test]
    async fn video_is_not_sent_to_a_phone_without_a_camera() -> Result<(), Error> {
        let (caller, phone) = (leg(Camera::Vp8).await?, leg(Camera::None).await?);
        join(&caller, &phone)?;
        phone.hears(&caller, SOON).await?;
        assert!(!caller.sends_video());
        let result = caller.sees(&phone, SHORT_WAIT).await;
        assert!(matches!(result, Err(Error::NoVideo { frames: 0, .. })));
        Ok(())
    }

    #[tokio::test]
    async fn packets_of_another_leg_do_not_count() -> Result<(), Error> {
        let (caller, phone) = (leg(Camera::None).await?, leg(Camera::None).await?);
        let third = leg(Camera::None).await?;
        third.connect(&phone.offer())?;
        phone.hears(&third, SOON).await?;
        let result = phone.hears(&caller, SHORT_WAIT).await;
        assert!(matches!(result, Err(Error::NoAudio { packets, .. }) if packets > 0));
        Ok(())
    }
}
