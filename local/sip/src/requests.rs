//! The requests that a party of an answered call sends: re-INVITE, UPDATE, INFO and REFER.

use rsipstack::sip::{Header, Response};

use crate::{
    Error, Hold, Media,
    agent::{Leg, sdp_content_type},
    error::failed,
};

impl Leg {
    /// The audio and video of this leg.
    pub fn media(&self) -> &Media {
        &self.media
    }

    /// Holds the call with a re-INVITE.
    pub async fn hold(&self, how: Hold) -> Result<(), Error> {
        self.media.set_hold(Some(how));
        if !matches!(how, Hold::SendOnly | Hold::SendOnlyInPcma) {
            self.media.mute();
        }
        self.reinvite().await
    }

    /// Resumes a call on hold with a re-INVITE.
    pub async fn resume(&self) -> Result<(), Error> {
        self.media.set_hold(None);
        self.reinvite().await
    }

    /// Sends a re-INVITE with our session description, and connects the media to the answer's.
    pub async fn reinvite(&self) -> Result<(), Error> {
        let offer = Some(self.media.offer());
        let sent = self.dialog.reinvite(Some(sdp_content_type()), offer);
        let answer = accepted(sent.await.map_err(failed("sending a re-INVITE"))?)?;
        self.media.connect(&answer.body)
    }

    /// Moves the audio to another socket with a re-INVITE, as a phone does that changes its network. Returns the leg with
    /// the new media.
    pub async fn with_new_media(&self) -> Result<Self, Error> {
        let media = self.media.another().await?;
        self.media.mute();
        let moved = Self {
            media,
            ..self.clone()
        };
        moved.reinvite().await?;
        Ok(moved)
    }

    /// Holds or resumes the call with an UPDATE (RFC 3311).
    pub async fn update(&self, hold: Option<Hold>) -> Result<(), Error> {
        self.media.set_hold(hold);
        let offer = Some(self.media.offer());
        let sent = self.dialog.update(Some(sdp_content_type()), offer).await;
        let answer = accepted(sent.map_err(failed("sending an UPDATE"))?)?;
        self.media.connect(&answer.body)
    }

    /// Refreshes the session with an UPDATE that describes no media (RFC 4028, section 7.4). Returns the session's new
    /// length, as the PBX sends it.
    pub async fn refresh(&self) -> Result<Option<String>, Error> {
        let headers = vec![
            Header::Supported("timer".into()),
            Header::Other("Session-Expires".into(), "90;refresher=uac".into()),
        ];
        let sent = self.dialog.update(Some(headers), None).await;
        let answer = accepted(sent.map_err(failed("sending an UPDATE"))?)?;
        let is_session = |header: &&Header| header.name().eq_ignore_ascii_case("Session-Expires");
        let session = answer.headers.iter().find(is_session);
        Ok(session.map(|header| header.value().to_owned()))
    }

    /// Sends a key as an INFO request, as many softphones do instead of RFC 4733.
    pub async fn info(&self, digit: char) -> Result<(), Error> {
        let headers = vec![Header::ContentType("application/dtmf-relay".into())];
        let body = format!("Signal={digit}\r\nDuration=160\r\n").into_bytes();
        let sent = self.dialog.info(Some(headers), Some(body)).await;
        accepted(sent.map_err(failed("sending an INFO"))?)?;
        Ok(())
    }

    /// The Replaces header that names this call at the PBX (RFC 3891).
    pub fn replaces(&self) -> String {
        let id = self.dialog.id();
        format!(
            "Replaces: {};to-tag={};from-tag={}",
            id.call_id, id.remote_tag, id.local_tag
        )
    }

    /// Asks the PBX to connect the other party with `target` (REFER, RFC 3515). Returns the response's code.
    pub async fn refer(&self, target: &str) -> Result<u16, Error> {
        let sent = self.dialog.refer(target, None, None).await;
        let response = sent.map_err(failed("sending a REFER"))?;
        response
            .map(|response| response.status_code.code())
            .ok_or(Error::NotAnswered)
    }
}

fn accepted(response: Option<Response>) -> Result<Response, Error> {
    let response = response.ok_or(Error::NotAnswered)?;
    match response.status_code.code() {
        200..300 => Ok(response),
        code => Err(Error::RequestRefused(code)),
    }
}
