//! The WebSocket frames of Exotel's Stream and Voicebot applets, which carry a call's audio.
//!
//! <https://developer.exotel.com/docs/agentstream/websocket-protocol>
//!
//! The `start` frame repeats the parameters of the stream's URL in `custom_parameters`, and one of them is Ringback's
//! secret. They are not read.

use std::fmt;

use serde_json::{Map, Value};

use ringback_core::call::StopReason;
use ringback_core::ids::{BadName, CallSid};

/// The longest WebSocket message that API Gateway delivers, in bytes
/// (<https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-execution-service-websocket-limits-table.html>).
pub const MAX_FRAME_BYTES: usize = 128 * 1024;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamFrame {
    /// The stream starts.
    Start {
        /// The call that the audio belongs to.
        call_sid: CallSid,
        /// 16-bit samples per second, if the frame says so: 8,000, 16,000 or 24,000.
        sample_rate: Option<u64>,
    },
    /// The caller has pressed a key.
    Dtmf(DtmfKey),
    /// The stream has ended.
    Stop {
        /// The call that the audio belonged to.
        call_sid: CallSid,
        /// Why it ended.
        reason: StopReason,
    },
    /// Audio, or a frame about the stream itself. Ringback ignores these.
    Ignored,
}

/// A key that the caller has pressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DtmfKey {
    /// The key.
    pub digit: KeypadKey,
    /// How long it was pressed, in milliseconds, if the frame says so.
    pub duration_ms: Option<u64>,
    /// The number of the frame in its stream, if the frame says so. Frames may arrive out of order.
    pub sequence_number: Option<u64>,
}

/// A key of a telephone: `0` to `9`, `*`, `#`, `A` to `D`. People type PINs with them, so `Debug` hides it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeypadKey(char);

impl StreamFrame {
    /// Parses a frame. Ignores unknown fields. Numbers may also be strings, because Exotel sends both.
    ///
    /// # Errors
    /// When the text is no frame, or a required field is missing, malformed or of the wrong type. The error names the field.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let not_json = BadName {
            what: "a frame",
            rule: "must be a JSON object",
        };
        let frame: Map<String, Value> = serde_json::from_str(text).map_err(|_| not_json)?;
        match frame.get("event").and_then(Value::as_str) {
            Some("start") => start(&frame),
            Some("media") => media(&frame),
            Some("dtmf") => dtmf(&frame),
            Some("stop") => stop(&frame),
            // `mark` and `clear` are about audio that we would have sent, and we send none.
            Some("connected" | "mark" | "clear" | "silence") => Ok(Self::Ignored),
            _ => Err(BadName {
                what: "event",
                rule: "must be connected, start, media, dtmf, mark or stop",
            }),
        }
    }
}

fn start(frame: &Map<String, Value>) -> Result<StreamFrame, BadName> {
    let start = object(frame, "start")?;
    let format = start.get("media_format").and_then(Value::as_object);
    let sample_rate = format.map(|format| number(format, "sample_rate"));
    Ok(StreamFrame::Start {
        call_sid: call_sid(start)?,
        sample_rate: sample_rate.transpose()?.flatten(),
    })
}

/// Does not decode the audio, which would take most of the time.
fn media(frame: &Map<String, Value>) -> Result<StreamFrame, BadName> {
    let payload = object(frame, "media")?.get("payload");
    let is_text = payload.is_some_and(Value::is_string);
    is_text.then_some(StreamFrame::Ignored).ok_or(BadName {
        what: "payload",
        rule: "must be a string",
    })
}

fn dtmf(frame: &Map<String, Value>) -> Result<StreamFrame, BadName> {
    // Exotel's guide to the beta applet shows the fields at the top level.
    let key = match frame.get("dtmf") {
        None => frame,
        Some(_) => object(frame, "dtmf")?,
    };
    let digit = match key.get("digit") {
        Some(Value::String(text)) => KeypadKey::parse(text),
        Some(Value::Number(number)) => KeypadKey::parse(&number.to_string()),
        _ => None,
    };
    Ok(StreamFrame::Dtmf(DtmfKey {
        digit: digit.ok_or(BadName {
            what: "digit",
            rule: "must be one of 0 to 9, *, #, A to D",
        })?,
        duration_ms: number(key, "duration")?,
        sequence_number: number(frame, "sequence_number")?,
    }))
}

fn stop(frame: &Map<String, Value>) -> Result<StreamFrame, BadName> {
    let stop = object(frame, "stop")?;
    let reason = match stop.get("reason").and_then(Value::as_str) {
        Some("callended") => StopReason::CallEnded,
        // `stopped`, or a word that Exotel does not document.
        _ => StopReason::Stopped,
    };
    Ok(StreamFrame::Stop {
        call_sid: call_sid(stop)?,
        reason,
    })
}

fn object<'a>(
    frame: &'a Map<String, Value>,
    what: &'static str,
) -> Result<&'a Map<String, Value>, BadName> {
    frame.get(what).and_then(Value::as_object).ok_or(BadName {
        what,
        rule: "must be an object",
    })
}

fn call_sid(object: &Map<String, Value>) -> Result<CallSid, BadName> {
    let text = object.get("call_sid").and_then(Value::as_str);
    CallSid::try_from(text.ok_or(BadName {
        what: "call_sid",
        rule: "must be a string",
    })?)
}

/// A number, or a string with a number. An empty string counts as missing.
fn number(object: &Map<String, Value>, what: &'static str) -> Result<Option<u64>, BadName> {
    let number = match object.get(what) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.is_empty() => return Ok(None),
        Some(Value::String(text)) => text.parse().ok(),
        Some(other) => other.as_u64(),
    };
    number.map(Some).ok_or(BadName {
        what,
        rule: "must be a whole number",
    })
}

impl KeypadKey {
    fn parse(text: &str) -> Option<Self> {
        let mut characters = text.chars();
        let digit = characters.next()?.to_ascii_uppercase();
        let is_key = matches!(digit, '0'..='9' | '*' | '#' | 'A'..='D');
        (is_key && characters.next().is_none()).then_some(Self(digit))
    }
}

impl fmt::Display for KeypadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for KeypadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeypadKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const SID: &str = "5a1e0f9c2b3d4e5f60718293a4b5c6d7";

    fn read(frame: &Value) -> Result<StreamFrame, BadName> {
        StreamFrame::parse(&frame.to_string())
    }

    fn sid() -> CallSid {
        CallSid::try_from(SID).unwrap()
    }

    fn a_start() -> Value {
        json!({
            "event": "start", "sequence_number": "1", "stream_sid": "MZ1",
            "start": {
                "stream_sid": "MZ1", "call_sid": SID, "account_sid": "acme",
                "from": "+919876543210", "to": "+918047491899",
                "custom_parameters": { "secret": "hush" },
                "media_format": { "encoding": "audio/x-raw", "sample_rate": "8000", "bit_rate": "16" },
            },
        })
    }

    fn a_dtmf(digit: &Value, duration: &Value) -> Value {
        json!({
            "event": "dtmf", "sequence_number": 7, "stream_sid": "MZ1",
            "dtmf": { "digit": digit, "duration": duration },
        })
    }

    fn a_media(bytes: usize) -> Value {
        let payload = base64::engine::general_purpose::STANDARD.encode(vec![0x80; bytes]);
        json!({
            "event": "media", "sequence_number": 3, "stream_sid": "MZ1",
            "media": { "chunk": "2", "timestamp": "200", "payload": payload },
        })
    }

    #[test]
    fn a_start_frame_has_the_call_sid_and_not_the_secret_of_the_url() {
        let started = read(&a_start()).unwrap();
        assert!(!format!("{started:?}").contains("hush"));
        let expected = StreamFrame::Start {
            call_sid: sid(),
            sample_rate: Some(8_000),
        };
        assert_eq!(started, expected);
    }

    #[test]
    fn an_unknown_stop_reason_counts_as_stopped() {
        for (word, reason) in [
            ("stopped", StopReason::Stopped),
            ("callended", StopReason::CallEnded),
            ("on a whim", StopReason::Stopped),
        ] {
            let frame = json!({ "event": "stop", "stop": { "call_sid": SID, "reason": word } });
            let call_sid = sid();
            assert_eq!(read(&frame), Ok(StreamFrame::Stop { call_sid, reason }));
        }
    }

    #[test]
    fn the_numbers_of_a_dtmf_frame_may_be_strings() {
        for (digit, duration, key, duration_ms) in [
            (json!("5"), json!("200"), '5', Some(200)),
            (json!(5), json!(200), '5', Some(200)),
            (json!("#"), json!(""), '#', None),
            (json!("d"), Value::Null, 'D', None),
        ] {
            let dtmf = DtmfKey {
                digit: KeypadKey(key),
                duration_ms,
                sequence_number: Some(7),
            };
            assert_eq!(format!("{:?}", dtmf.digit), "KeypadKey(…)");
            assert_eq!(
                read(&a_dtmf(&digit, &duration)),
                Ok(StreamFrame::Dtmf(dtmf))
            );
        }
        let flat = read(&json!({ "event": "dtmf", "digit": "*" }));
        assert!(matches!(flat, Ok(StreamFrame::Dtmf(dtmf)) if dtmf.digit == KeypadKey('*')));
    }

    #[test]
    fn audio_and_frames_about_the_stream_are_ignored() {
        for event in ["connected", "mark", "clear", "silence"] {
            assert_eq!(read(&json!({ "event": event })), Ok(StreamFrame::Ignored));
        }
        assert_eq!(read(&a_media(1_600)), Ok(StreamFrame::Ignored));
    }

    #[test]
    fn audio_of_every_sample_rate_fits_into_one_websocket_frame() {
        // 100 ms of 16-bit samples, as Exotel sends them.
        for sample_rate in [8_000, 16_000, 24_000] {
            let frame = a_media(sample_rate / 10 * 2).to_string();
            assert!(frame.len() < 32 * 1024, "{sample_rate} Hz");
        }
        // API Gateway limits a WebSocket frame to 32 KB.
        assert!(a_media(24_000).to_string().len() < 32 * 1024);
    }

    #[test]
    fn the_error_names_the_malformed_field() {
        let with = |mut frame: Value, pointer: &str, value: Value| {
            *frame.pointer_mut(pointer).unwrap() = value;
            frame
        };
        let cases = [
            (json!([]), "a frame"),
            (json!({}), "event"),
            (json!({ "event": 7 }), "event"),
            (json!({ "event": "dance" }), "event"),
            (json!({ "event": "start" }), "start"),
            (with(a_start(), "/start", json!("now")), "start"),
            (with(a_start(), "/start/call_sid", json!(7)), "call_sid"),
            (with(a_start(), "/start/call_sid", json!("a/b")), "CallSid"),
            (
                with(a_start(), "/start/media_format/sample_rate", json!("fast")),
                "sample_rate",
            ),
            (json!({ "event": "media", "media": "…" }), "media"),
            (json!({ "event": "media", "media": {} }), "payload"),
            (a_dtmf(&json!("12"), &json!(1)), "digit"),
            (a_dtmf(&json!("E"), &json!(1)), "digit"),
            (a_dtmf(&json!(12), &json!(1)), "digit"),
            (a_dtmf(&Value::Null, &json!(1)), "digit"),
            (a_dtmf(&json!("1"), &json!("long")), "duration"),
            (a_dtmf(&json!("1"), &json!(-1)), "duration"),
            (json!({ "event": "dtmf", "dtmf": "5" }), "dtmf"),
            (json!({ "event": "stop", "stop": {} }), "call_sid"),
        ];
        for (frame, what) in cases {
            assert_eq!(read(&frame).unwrap_err().what, what, "{frame}");
        }
        assert_eq!(StreamFrame::parse("{").unwrap_err().what, "a frame");
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,5}".prop_map(Value::from),
        ];
        let name = prop_oneof![
            Just("call_sid"),
            Just("digit"),
            Just("duration"),
            Just("media_format"),
            Just("sample_rate"),
            Just("payload"),
            Just("reason"),
        ];
        leaf.prop_recursive(3, 16, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::vec((name.clone(), inner), 0..4)
                    .prop_map(|fields| fields.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn parsing_any_text_does_not_panic(text in ".{0,200}") {
            let _rejected_or_parsed = StreamFrame::parse(&text);
        }

        #[test]
        fn parsing_any_frame_does_not_panic(
            event in prop_oneof![Just("start"), Just("media"), Just("dtmf"), Just("stop"), Just("mark")],
            part in any_value(),
            sequence_number in any_value(),
        ) {
            let frame = json!({ "event": event, event: part, "sequence_number": sequence_number });
            let _rejected_or_parsed = read(&frame);
        }
    }
}
