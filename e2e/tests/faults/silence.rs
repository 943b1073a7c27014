//! A phone loses its network during a conversation and sends no BYE.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringback_sip::Caller;

use crate::play::ring;
use crate::stage::Stage;

/// `asterisk/pjsip.conf`: Asterisk sends each phone an OPTIONS every 45 s. An unanswered request times out after 32 s
/// (RFC 3261, timer B), and so does the BYE that Asterisk then sends before it hangs up.
const NOTICED: Duration = Duration::from_secs(45 + 2 * 32 + 5);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: part of `make chaos`"]
async fn a_phone_whose_network_dies_is_noticed_and_one_that_answers_talks_on() -> Result<()> {
    let stage = Stage::open(2).await?;
    let pbx = stage.fixture.stack.sip.address.parse()?;
    let mut talks = Vec::new();
    for _ in 0..2 {
        let mut seat = stage.seat().await?;
        seat.get_ready(1).await?;
        let caller = Caller::number(&stage.new_caller());
        let call = stage.trunk.call(pbx, &seat.number, caller, None).await?;
        let device = seat.devices[0].clone();
        let id = device.woken(ring()).await?;
        let id = id.ok_or_else(|| anyhow::anyhow!("no push"))?;
        device.says("accept_ready", &id).await?;
        let leg = seat.phone.next_call(ring()).await?;
        leg.answer().await?;
        call.answered(ring()).await?;
        talks.push((seat, call, leg));
    }
    let (dead_seat, dead_call, dead_leg) = &talks[0];
    dead_seat.phone.lose_network();
    dead_leg.media().mute();
    dead_call.ended(NOTICED).await?;
    let (_, call, leg) = &talks[1];
    ensure!(!call.events().is_over(), "a phone that answers was cut off");
    call.hang_up().await?;
    leg.ended(ring()).await?;
    Ok(())
}
