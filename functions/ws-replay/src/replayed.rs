//! Which calls a client gets that has connected.

use ringback::api::status_update;
use ringback::replay_queue::ReplayRequest;
use ringback_core::call::Call;
use ringback_core::timestamp::Timestamp;

/// The messages for the client, in the order of `calls`: of each call in progress that it may see and that began before the client was
/// stored. `broadcast` sends it those that began later.
pub(crate) fn texts(request: &ReplayRequest, calls: &[Call], now: Timestamp) -> Vec<String> {
    let viewer = &request.connection.viewer;
    let is_for_client =
        |call: &&Call| viewer.sees(call.participants()) && call.created_at <= request.stored_at;
    let calls = calls.iter().filter(is_for_client);
    calls
        .filter_map(|call| status_update::replay(call, now))
        .collect()
}

#[cfg(test)]
mod tests {
    use ringback::auth::Viewer;
    use ringback::store::connections::Connection;
    use ringback_core::call::CallStatus;
    use ringback_core::ids::Extension;
    use ringback_core::testing::a_call;
    use serde_json::Value;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);
    const STORED_AT: Timestamp = Timestamp::from_millis(1_710_417_590_000);

    fn call_at(created_at: Timestamp, status: CallStatus) -> Call {
        let mut call = a_call(created_at);
        call.status = status;
        call
    }

    /// The messages for a client of this viewer that was stored at `STORED_AT`.
    fn texts_for(viewer: Viewer, calls: &[Call]) -> Vec<Value> {
        let id = "L0SM9".to_owned();
        let request = ReplayRequest {
            connection: Connection { id, viewer },
            stored_at: STORED_AT,
        };
        let texts = texts(&request, calls, NOW);
        let messages = texts.iter().map(|text| serde_json::from_str(text).unwrap());
        messages.collect()
    }

    fn app(extension: &str) -> Viewer {
        Viewer::App(Extension::try_from(extension).unwrap())
    }

    #[test]
    fn a_client_gets_the_calls_in_progress_that_began_before_it_was_stored() {
        let later = Timestamp::from_millis(STORED_AT.as_millis() + 1);
        let calls = [
            call_at(STORED_AT, CallStatus::WaitingForMobile),
            call_at(STORED_AT, CallStatus::InProgress),
            call_at(STORED_AT, CallStatus::TimedOut),
            call_at(Timestamp::from_millis(0), CallStatus::InProgress),
            call_at(later, CallStatus::WaitingForMobile),
        ];
        for viewer in [app("1001"), Viewer::Operator] {
            let messages = texts_for(viewer, &calls);
            let shown: Vec<_> = messages
                .iter()
                .map(|message| (&message["data"]["callId"], &message["data"]["status"]))
                .collect();
            let ids = calls
                .each_ref()
                .map(|call| Value::from(call.call_id.to_string()));
            assert_eq!(
                shown,
                [
                    (&ids[0], &"ringing".into()),
                    (&ids[1], &"in-progress".into())
                ]
            );
            assert!(messages.iter().all(|message| message["replay"] == true));
        }
    }

    #[test]
    fn an_app_gets_no_call_of_another_extension() {
        let calls = [call_at(STORED_AT, CallStatus::WaitingForMobile)];
        assert!(texts_for(app("1002"), &calls).is_empty());
    }
}
