//! A trunk calls a phone directly, without a PBX between them.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use ringback_sip::{CallStage, Caller, Error, IncomingCall, OutgoingCall, Phone, Trunk};

const SOON: Duration = Duration::from_secs(3);

struct Line {
    phone: Phone,
    trunk: Trunk,
}

impl Line {
    async fn new() -> Result<Self> {
        // A phone that does not register needs the PBX address only to find its own local address.
        let pbx: SocketAddr = "127.0.0.1:9".parse()?;
        Ok(Self {
            phone: Phone::new(pbx, "1001", "unused").await?,
            trunk: Trunk::bind("127.0.0.2:0").await?,
        })
    }

    async fn ring_from(&mut self, caller: Caller) -> Result<(OutgoingCall, IncomingCall)> {
        let address = self.phone.address();
        let call = self
            .trunk
            .call(address, "1001", caller, Some("sid"))
            .await?;
        let incoming = self.phone.next_call(SOON).await?;
        call.ringing(SOON).await?;
        Ok((call, incoming))
    }

    async fn ring(&mut self) -> Result<(OutgoingCall, IncomingCall)> {
        self.ring_from(Caller::number("+919876543210")).await
    }
}

#[tokio::test]
async fn an_answered_call_carries_audio_both_ways_until_the_phone_hangs_up() -> Result<()> {
    let (call, incoming) = Line::new().await?.ring().await?;
    let sent = incoming.answer().await?;
    let arrived = call.answered(SOON).await?;
    assert!(arrived.at.since(sent.at) < Duration::from_secs(1));
    call.media().hears(incoming.media(), SOON).await?;
    incoming.media().hears(call.media(), SOON).await?;
    incoming.hang_up().await?;
    assert_eq!(
        call.ended(SOON).await?.stage,
        CallStage::Ended { by_remote: true }
    );
    assert_eq!(
        incoming.ended(SOON).await?.stage,
        CallStage::Ended { by_remote: false }
    );
    Ok(())
}

#[tokio::test]
async fn the_caller_hangs_up() -> Result<()> {
    let (call, incoming) = Line::new().await?.ring().await?;
    incoming.answer().await?;
    call.answered(SOON).await?;
    call.hang_up().await?;
    assert_eq!(
        incoming.ended(SOON).await?.stage,
        CallStage::Ended { by_remote: true }
    );
    assert_eq!(
        call.ended(SOON).await?.stage,
        CallStage::Ended { by_remote: false }
    );
    Ok(())
}

#[tokio::test]
async fn the_caller_gets_the_response_code_of_a_rejection() -> Result<()> {
    let (call, incoming) = Line::new().await?.ring().await?;
    incoming.reject(486).await?;
    let (code, event) = call.rejected(SOON).await?;
    assert_eq!(code, 486);
    let reason = "Busy Here".to_owned();
    assert_eq!(event.stage, CallStage::Rejected { code, reason });
    let answered = call.answered(SOON).await;
    assert!(matches!(answered, Err(Error::UnexpectedOutcome { .. })));
    Ok(())
}

#[tokio::test]
async fn a_cancelled_call_stops_ringing() -> Result<()> {
    let (call, incoming) = Line::new().await?.ring().await?;
    call.cancel().await?;
    assert_eq!(call.rejected(SOON).await?.0, 487);
    assert_eq!(
        incoming.ended(SOON).await?.stage,
        CallStage::Ended { by_remote: true }
    );
    Ok(())
}

#[tokio::test]
async fn a_dropped_call_is_hung_up() -> Result<()> {
    let (call, incoming) = Line::new().await?.ring().await?;
    drop(call);
    incoming.ended(SOON).await?;
    let (call, incoming) = Line::new().await?.ring().await?;
    drop(incoming);
    call.rejected(SOON).await?;
    Ok(())
}

#[tokio::test]
async fn the_phone_gets_the_callers_name_and_number() -> Result<()> {
    let asha = Caller::number("+919876543210").named(r#"Asha "आशा" \o/"#);
    let (_call, incoming) = Line::new().await?.ring_from(asha.clone()).await?;
    assert_eq!(*incoming.caller(), asha);
    Ok(())
}

#[tokio::test]
async fn a_withheld_number_does_not_reach_the_phone() -> Result<()> {
    let caller = Caller {
        withheld: true,
        ..Caller::number("+919876543210")
    };
    let (_call, incoming) = Line::new().await?.ring_from(caller).await?;
    assert!(incoming.caller().withheld);
    assert_eq!(incoming.caller().number, "anonymous");
    Ok(())
}

#[tokio::test]
async fn a_phone_takes_one_call_after_another() -> Result<()> {
    let mut line = Line::new().await?;
    for _ in 0..3 {
        let (call, incoming) = line.ring().await?;
        incoming.answer().await?;
        call.answered(SOON).await?;
        call.hang_up().await?;
        incoming.ended(SOON).await?;
    }
    Ok(())
}

#[tokio::test]
async fn waiting_for_a_call_times_out() -> Result<()> {
    let mut line = Line::new().await?;
    let result = line.phone.next_call(Duration::from_millis(20)).await;
    assert!(matches!(result, Err(Error::TimedOut { .. })));
    Ok(())
}

#[tokio::test]
async fn phones_with_cameras_see_each_other() -> Result<()> {
    let line = Line::new().await?;
    let mut line = Line {
        phone: line.phone.with_video(),
        trunk: line.trunk.with_video(),
    };
    let (call, incoming) = line.ring().await?;
    assert!(incoming.offers_video());
    incoming.answer().await?;
    call.answered(SOON).await?;
    call.media().sees(incoming.media(), SOON).await?;
    incoming.media().sees(call.media(), SOON).await?;
    call.media().hears(incoming.media(), SOON).await?;
    Ok(())
}

#[tokio::test]
async fn a_phone_without_a_camera_takes_a_video_call_as_a_voice_call() -> Result<()> {
    let line = Line::new().await?;
    let mut line = Line {
        trunk: line.trunk.with_video(),
        ..line
    };
    let (call, incoming) = line.ring().await?;
    incoming.answer().await?;
    call.answered(SOON).await?;
    call.media().hears(incoming.media(), SOON).await?;
    assert!(!call.media().sends_video());
    assert!(!incoming.media().sends_video());
    Ok(())
}

#[tokio::test]
async fn a_phone_with_a_camera_sends_no_video_in_a_voice_call() -> Result<()> {
    let line = Line::new().await?;
    let mut line = Line {
        phone: line.phone.with_video(),
        ..line
    };
    let (call, incoming) = line.ring().await?;
    assert!(!incoming.offers_video());
    incoming.answer().await?;
    call.answered(SOON).await?;
    call.media().hears(incoming.media(), SOON).await?;
    assert!(!incoming.media().sends_video());
    Ok(())
}

#[tokio::test]
async fn the_phone_can_read_the_invites_headers() -> Result<()> {
    let (_call, incoming) = Line::new().await?.ring().await?;
    assert_eq!(incoming.header("x-exotel-callsid"), Some("sid"));
    assert_eq!(incoming.header("X-Nothing"), None);
    Ok(())
}

#[tokio::test]
async fn the_phone_gets_the_reasons_of_a_cancel() -> Result<()> {
    let (call, incoming) = Line::new().await?.ring().await?;
    let reasons = [
        r#"SIP;cause=200;text="Call completed elsewhere""#,
        "Q.850;cause=26",
    ];
    assert!(incoming.cancel_reasons().is_empty());
    call.cancel_because(&reasons).await?;
    incoming.ended(SOON).await?;
    assert_eq!(incoming.cancel_reasons(), reasons);
    Ok(())
}
