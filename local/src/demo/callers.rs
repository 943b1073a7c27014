//! Callers on the simulated trunk, with real SIP legs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use ringback_sip::{CallEvents, CallStage, Caller, Media, OutgoingCall, Trunk};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::stack::Stack;

/// The number of calls that are kept. Older ones are dropped, which hangs them up.
const KEPT_CALLS: usize = 20;
/// The longest display name. Ringback itself keeps 64 characters.
const MAX_NAME_LENGTH: usize = 100;

/// A request to place a call.
#[derive(Debug, Deserialize)]
pub(super) struct DialRequest {
    extension: String,
    /// An empty number means that the caller withholds it.
    number: String,
    name: String,
}

impl DialRequest {
    fn caller(&self) -> Result<Caller> {
        let digits = self.number.strip_prefix('+').unwrap_or(&self.number);
        let is_number =
            (3..=15).contains(&digits.len()) && digits.bytes().all(|it| it.is_ascii_digit());
        ensure!(
            self.number.is_empty() || is_number,
            "a caller's number has 3 to 15 digits"
        );
        ensure!(
            self.name.chars().count() <= MAX_NAME_LENGTH,
            "a caller's name has at most {MAX_NAME_LENGTH} characters"
        );
        let caller = match self.number.as_str() {
            "" => Caller::withheld(),
            number => Caller::number(number),
        };
        Ok(match self.name.as_str() {
            "" => caller,
            name => caller.named(name),
        })
    }
}

struct TestCall {
    leg: OutgoingCall,
    /// Keeps the trunk's socket open for the call.
    _trunk: Trunk,
}

/// The calls by id.
#[derive(Clone, Default)]
pub(super) struct Callers(Arc<Mutex<BTreeMap<u32, TestCall>>>);

impl Callers {
    pub(super) async fn dial(&self, stack: &Stack, request: DialRequest) -> Result<u32> {
        let caller = request.caller()?;
        let mut numbers = stack.numbers.iter();
        let (number, _) = numbers
            .find(|(_, extension)| **extension == request.extension)
            .with_context(|| format!("no phone number belongs to {}", request.extension))?;
        let trunk = Trunk::bind(&format!("{}:0", stack.sip.trunk_source)).await?;
        let sid = Uuid::new_v4().simple().to_string();
        let pbx = stack.sip.address.parse()?;
        let leg = trunk.call(pbx, number, caller, Some(&sid)).await?;
        let mut calls = self.calls();
        let id = calls.last_key_value().map_or(1, |(last, _)| last + 1);
        calls.insert(id, TestCall { leg, _trunk: trunk });
        if calls.len() > KEPT_CALLS {
            calls.pop_first();
        }
        Ok(id)
    }

    pub(super) fn leg(&self, id: u32) -> Option<OutgoingCall> {
        Some(self.calls().get(&id)?.leg.clone())
    }

    /// The media of each leg, with the leg's name.
    pub(super) fn legs(&self) -> Vec<(String, Media)> {
        let calls = self.calls();
        let legs = calls.iter();
        legs.map(|(id, call)| (name(*id), call.leg.media().clone()))
            .collect()
    }

    pub(super) fn to_json<'a>(&self, hears: impl Fn(&Media, &str) -> Vec<&'a str>) -> Vec<Value> {
        let calls = self.calls();
        let callers = calls.iter().map(|(id, call)| {
            let events = call.leg.events();
            json!({
                "id": id,
                "name": name(*id),
                "stage": describe(&events),
                "over": events.is_over(),
                "hears": hears(call.leg.media(), &name(*id)),
            })
        });
        callers.collect()
    }

    fn calls(&self) -> MutexGuard<'_, BTreeMap<u32, TestCall>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(id: u32) -> String {
    format!("caller {id}")
}

/// Describes the stage of a leg for the console.
fn describe(events: &CallEvents) -> String {
    match events.all().last().map(|event| event.stage.clone()) {
        None => "dials".to_owned(),
        Some(CallStage::Ringing { .. }) => "hears it ring".to_owned(),
        Some(CallStage::Answered) => "talks".to_owned(),
        Some(CallStage::Rejected { code: 487, .. }) => "gave up".to_owned(),
        Some(CallStage::Rejected { code: 486, .. }) => "heard busy".to_owned(),
        Some(CallStage::Rejected { code, reason }) => format!("was refused ({code} {reason})"),
        Some(CallStage::Ended { by_remote: true }) => "was hung up on".to_owned(),
        Some(CallStage::Ended { by_remote: false }) => "has hung up".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(number: &str, name: &str) -> DialRequest {
        DialRequest {
            extension: "1001".to_owned(),
            number: number.to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn an_empty_number_is_withheld() {
        assert!(request("", "Asha").caller().unwrap().withheld);
        assert_eq!(
            request("+919876543210", "").caller().unwrap(),
            Caller::number("+919876543210")
        );
    }

    #[test]
    fn an_invalid_number_or_name_is_rejected() {
        for number in ["12", "+", "98765432109876543", "98 76", "1;2", "++123"] {
            assert!(request(number, "").caller().is_err(), "{number}");
        }
        assert!(
            request("", &"a".repeat(MAX_NAME_LENGTH + 1))
                .caller()
                .is_err()
        );
    }
}
