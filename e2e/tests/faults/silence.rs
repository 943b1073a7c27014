//! A phone loses its network during a conversation and sends no BYE. Another one holds its call for as long.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringback_sip::Hold;

use crate::call_run::ring;
use crate::harness::Harness;

/// `asterisk/pjsip.conf`: Asterisk sends each phone an OPTIONS every 45 s. An unanswered request times out after 32 s
/// (RFC 3261, timer B), and so does the BYE that Asterisk then sends before it hangs up.
const NOTICED: Duration = Duration::from_secs(45 + 2 * 32 + 5);

pub(crate) async fn a_phone_without_network_is_hung_up_and_other_calls_continue(
    harness: &Harness,
) -> Result<()> {
    let mut talks = Vec::new();
    for _ in 0..3 {
        let mut subscriber = harness.subscriber().await?;
        subscriber.prepare(1).await?;
        let talk = harness.conversation(&mut subscriber).await?;
        talks.push((subscriber, talk));
    }
    // The hold lasts longer than the session of 90 s (RFC 4028), and the phone sends nothing.
    talks[2].1.callee.leg().hold(Hold::Inactive).await?;
    let (dead_seat, dead) = &talks[0];
    dead_seat.phone.lose_network();
    dead.callee.media().mute();
    dead.caller.ended(NOTICED).await?;
    for (_, talk) in &talks[1..] {
        ensure!(
            !talk.caller.events().is_over(),
            "another conversation was cut off"
        );
        talk.caller.hang_up().await?;
        talk.callee.ended(ring()).await?;
    }
    Ok(())
}
