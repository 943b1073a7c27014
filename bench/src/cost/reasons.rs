//! Why an answered call makes each of its requests.

use anyhow::{Context, Result};

/// A function, what it requests of which items, and why.
type Reason = (&'static str, &'static str, &'static str);

/// One for each kind of request. A request without a reason fails the bench.
const REASONS: [Reason; 26] = [
    (
        "exotel-webhook",
        "DynamoDB TransactWriteItems CALL# CALL, CALLER# CORRELATION",
        "stores the call, and the caller's number, with which the PBX's report finds the call: both or none",
    ),
    (
        "exotel-webhook",
        "DynamoDB Query EXTENSION# …",
        "the devices of the extension, and its connected apps",
    ),
    (
        "exotel-webhook",
        "DynamoDB PutItem CALLSID# 1001#",
        "a later report of Exotel names only the CallSid",
    ),
    ("exotel-webhook", "SQS SendMessage", "the timer of the ring"),
    ("exotel-webhook", "FCM POST", "wakes the app"),
    (
        "exotel-webhook",
        "DynamoDB UpdateItem CALL# CALL",
        "records the pushes, so that any process can cancel them",
    ),
    (
        "asterisk-incoming",
        "DynamoDB PutItem CALL# CALL",
        "stores the call if this report is the first to name it",
    ),
    (
        "asterisk-incoming",
        "DynamoDB Query EXTENSION# …",
        "the devices, at the same time, in case the call is new",
    ),
    (
        "asterisk-incoming",
        "DynamoDB UpdateItem CALL# CALL",
        "one transition for each report: the caller waits, bridged, ended; and once that the effects of the end are done",
    ),
    (
        "asterisk-incoming",
        "ARI DELETE",
        "ends a leg that the PBX may still have",
    ),
    (
        "asterisk-incoming",
        "Scheduler DELETE",
        "a last timer, of the ring or of the conversation, would fire for nothing and costs more then",
    ),
    (
        "call-status",
        "DynamoDB GetItem CALL# CALL",
        "the woken app asks whether the call still rings",
    ),
    (
        "call-response",
        "DynamoDB UpdateItem CALL# CALL",
        "the accept; and that its effects are done",
    ),
    ("call-response", "ARI POST", "calls the phone"),
    (
        "call-response",
        "ARI GET",
        "whether the phone gets the INVITE, or has moved",
    ),
    (
        "call-timeout",
        "DynamoDB UpdateItem CALL# CALL",
        "the timer of the ring, which cannot be deleted from SQS",
    ),
    (
        "broadcast",
        "DynamoDB PutItem EXTENSION# CALL#",
        "the list of recent calls",
    ),
    (
        "broadcast",
        "Scheduler POST",
        "the last timer, in case SQS loses the other one",
    ),
    (
        "broadcast",
        "DynamoDB PutItem EXTENSION# LIVE#",
        "a client that connects gets the calls in progress of its extension",
    ),
    (
        "broadcast",
        "DynamoDB PutItem LIVE-CALLS# LIVE#",
        "the same for operators, who see all calls",
    ),
    (
        "broadcast",
        "DynamoDB DeleteItem EXTENSION# LIVE#",
        "the call is not in progress any more",
    ),
    (
        "broadcast",
        "DynamoDB DeleteItem LIVE-CALLS# LIVE#",
        "the same for operators",
    ),
    (
        "broadcast",
        "DynamoDB Query EXTENSION# …",
        "the clients of the extension; and after the end, its devices, to find one that is silent",
    ),
    (
        "broadcast",
        "DynamoDB Query OPERATORS …",
        "the clients of operators",
    ),
    (
        "broadcast",
        "DynamoDB Query ",
        "all other clients, one query for each of four partitions",
    ),
    (
        "broadcast",
        "@connections POST",
        "one status update to one client",
    ),
];

/// Why a function makes this request.
pub(super) fn reason(function: &str, request: &str, items: &str) -> Result<&'static str> {
    let request = format!("{request} {items}");
    let found = REASONS
        .iter()
        .find(|(of, starts, _)| *of == function && request.starts_with(starts));
    let (.., why) = found.with_context(|| format!("{function} has no reason for {request:?}"))?;
    Ok(why)
}
