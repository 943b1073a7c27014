//! The platform applications of SNS exist, are enabled, and have a certificate that stays valid.

use std::time::Duration;

use lambda_runtime::Error;
use ringback::doctor::{Fault, Finding};
use ringback::platform::clock;
use ringback::start::Start;

/// Long enough to get a new certificate.
const ENDS_SOON: Duration = Duration::from_secs(30 * 24 * 60 * 60);

pub(crate) async fn check(start: &Start) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    let soon = (clock::now() + ENDS_SOON).to_iso();
    for (arn, state) in start.sns()?.application_states().await? {
        let Some(state) = state else {
            findings.push(Fault::SnsMissing.at(arn));
            continue;
        };
        if !state.is_enabled {
            findings.push(Fault::SnsDisabled.at(&arn));
        }
        // Both are in ISO 8601, which sorts by time.
        if let Some(ends) = state.certificate_ends.filter(|ends| *ends < soon) {
            let seen = format!("it ends at {ends}");
            findings.push(Fault::SnsCertificate.at(&arn).seen(seen));
        }
    }
    Ok(findings)
}
