//! The dialplan sends its reports to the functions.

use crate::requests::{Answer, Request};
use crate::sim::Sim;

const AVOIDED_FOR: u64 = 20_000;

/// Sends a report beside the leg.
pub async fn post(sim: &Sim, pbx: usize, report: &Request) -> Answer {
    post_while(sim, pbx, report, || true).await
}

/// Sends a report as the dialplan does: up to four times, to two regions in turn, or three times to one. It stops with its channel.
pub async fn post_while(
    sim: &Sim,
    pbx: usize,
    report: &Request,
    exists: impl Fn() -> bool,
) -> Answer {
    let is_two = sim.plan().regions == 2;
    let attempts = if is_two { 4 } else { 3 };
    let mut region = usize::from(is_two && sim.state().pbxs[pbx].avoid_until > sim.elapsed());
    for attempt in 1..=attempts {
        if !exists() {
            break;
        }
        match sim.request(region, report.clone()).await {
            Answer::NoSuchCall if is_two && attempt == 1 => region = 1 - region,
            answer @ (Answer::Done(_) | Answer::Rejected | Answer::NoSuchCall) => return answer,
            Answer::Failed | Answer::Nothing => {
                if is_two && region == 0 {
                    sim.state().pbxs[pbx].avoid_until = sim.elapsed() + AVOIDED_FOR;
                }
                if is_two {
                    region = 1 - region;
                }
                if attempt < attempts && (!is_two || attempt % 2 == 0) {
                    sim.sleep(500).await;
                }
            }
        }
    }
    Answer::Nothing
}
