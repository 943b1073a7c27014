//! A phone loses its network during a conversation and sends no BYE. Another one holds its call for as long.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringback_sip::{Caller, Hold};

use crate::call_run::ring;
use crate::harness::Harness;

/// `asterisk/pjsip.conf`: Asterisk sends each phone an OPTIONS every 45 s. An unanswered request times out after 32 s
/// (RFC 3261, timer B), and so does the BYE that Asterisk then sends before it hangs up.
const NOTICED: Duration = Duration::from_secs(45 + 2 * 32 + 5);

pub(crate) async fn a_phone_without_network_is_hung_up_and_other_calls_continue(
    harness: &Harness,
) -> Result<()> {
    let pbx = harness.fixture.stack.sip.address.parse()?;
    let mut talks = Vec::new();
    for _ in 0..3 {
        let mut subscriber = harness.subscriber().await?;
        subscriber.prepare(1).await?;
        let caller = Caller::number(&harness.new_caller());
        let call = harness
            .trunk
            .call(pbx, &subscriber.number, caller, None)
            .await?;
        let device = subscriber.devices[0].clone();
        let id = device.receives_call(ring()).await?;
        let id = id.ok_or_else(|| anyhow::anyhow!("no push"))?;
        device.respond("accept_ready", &id).await?;
        let leg = subscriber.phone.next_call(ring()).await?;
        leg.answer().await?;
        call.answered(ring()).await?;
        talks.push((subscriber, call, leg));
    }
    // The hold lasts longer than the session of 90 s (RFC 4028), and the phone sends nothing.
    talks[2].2.leg().hold(Hold::Inactive).await?;
    let (dead_seat, dead_call, dead_leg) = &talks[0];
    dead_seat.phone.lose_network();
    dead_leg.media().mute();
    dead_call.ended(NOTICED).await?;
    for (_, call, leg) in &talks[1..] {
        ensure!(!call.events().is_over(), "another conversation was cut off");
        call.hang_up().await?;
        leg.ended(ring()).await?;
    }
    Ok(())
}
