//! The frames of Exotel's Stream and Voicebot applets, which bring a call's audio over a WebSocket.
//!
//! <https://developer.exotel.com/docs/agentstream/websocket-protocol>
//!
//! `start` repeats the parameters of the stream's URL (`custom_parameters`), our secret among them: they are not read.

use std::fmt;

use serde_json::{Map, Value};

use ringback_core::call::StopReason;
use ringback_core::ids::{BadName, CallSid};

/// As long as a message can be that API Gateway passes on.
pub const LONGEST_FRAME: usize = 128 * 1024;

/// What Exotel says of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The stream begins.
    Start {
        /// The call whose audio it is.
        call_sid: CallSid,
        /// Samples of 16 bits a second, if told: 8,000, 16,000 or 24,000.
        sample_rate: Option<u64>,
    },
    /// The caller has pressed a key.
    Dtmf(Dtmf),
    /// The stream is over.
    Stop {
        /// The call whose audio it was.
        call_sid: CallSid,
        /// Why.
        reason: StopReason,
    },
    /// Audio, or word of the stream itself. Nothing is done about it: nobody here listens or speaks.
    Passing,
}

/// A key that the caller has pressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dtmf {
    /// The key.
    pub digit: Digit,
    /// How long it was pressed, in milliseconds, if told.
    pub duration_ms: Option<u64>,
    /// The frame's place in its stream, if told. Frames may overtake each other on their way.
    pub sequence_number: Option<u64>,
}

/// A key of a telephone: `0` to `9`, `*`, `#`, `A` to `D`. People type PINs with them, so it is hidden from `Debug`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digit(char);

impl Frame {
    /// Reads a frame. Fields that it does not know are ignored; numbers may be text, as Exotel writes them both ways.
    ///
    /// # Errors
    /// When it is no frame, or a field that is needed is missing, of the wrong type or malformed: with the field's name.
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
            // What was sent has been played, or is not to be; the caller says nothing. Nothing was sent.
            Some("connected" | "mark" | "clear" | "silence") => Ok(Self::Passing),
            _ => Err(BadName {
                what: "event",
                rule: "must be connected, start, media, dtmf, mark or stop",
            }),
        }
    }
}

fn start(frame: &Map<String, Value>) -> Result<Frame, BadName> {
    let start = part(frame, "start")?;
    let format = start.get("media_format").and_then(Value::as_object);
    let sample_rate = format.map(|format| number(format, "sample_rate"));
    Ok(Frame::Start {
        call_sid: call_sid(start)?,
        sample_rate: sample_rate.transpose()?.flatten(),
    })
}

/// What the audio is does not matter here, and decoding it would cost more than all the rest.
fn media(frame: &Map<String, Value>) -> Result<Frame, BadName> {
    let payload = part(frame, "media")?.get("payload");
    let is_text = payload.is_some_and(Value::is_string);
    is_text.then_some(Frame::Passing).ok_or(BadName {
        what: "payload",
        rule: "must be a string",
    })
}

fn dtmf(frame: &Map<String, Value>) -> Result<Frame, BadName> {
    // Exotel's guide to the beta applet shows it without an object of its own.
    let key = match frame.get("dtmf") {
        None => frame,
        Some(_) => part(frame, "dtmf")?,
    };
    let digit = match key.get("digit") {
        Some(Value::String(text)) => Digit::parse(text),
        Some(Value::Number(number)) => Digit::parse(&number.to_string()),
        _ => None,
    };
    Ok(Frame::Dtmf(Dtmf {
        digit: digit.ok_or(BadName {
            what: "digit",
            rule: "must be one of 0 to 9, *, #, A to D",
        })?,
        duration_ms: number(key, "duration")?,
        sequence_number: number(frame, "sequence_number")?,
    }))
}

fn stop(frame: &Map<String, Value>) -> Result<Frame, BadName> {
    let stop = part(frame, "stop")?;
    let reason = match stop.get("reason").and_then(Value::as_str) {
        Some("callended") => StopReason::CallEnded,
        // `stopped`, or a word that is not documented: it is over in any case.
        _ => StopReason::Stopped,
    };
    Ok(Frame::Stop {
        call_sid: call_sid(stop)?,
        reason,
    })
}

fn part<'a>(
    frame: &'a Map<String, Value>,
    what: &'static str,
) -> Result<&'a Map<String, Value>, BadName> {
    frame.get(what).and_then(Value::as_object).ok_or(BadName {
        what,
        rule: "must be an object",
    })
}

fn call_sid(of: &Map<String, Value>) -> Result<CallSid, BadName> {
    let text = of.get("call_sid").and_then(Value::as_str);
    CallSid::try_from(text.ok_or(BadName {
        what: "call_sid",
        rule: "must be a string",
    })?)
}

/// A number, or its text. One that is empty counts as missing.
fn number(of: &Map<String, Value>, what: &'static str) -> Result<Option<u64>, BadName> {
    let number = match of.get(what) {
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

impl Digit {
    fn parse(text: &str) -> Option<Self> {
        let mut characters = text.chars();
        let digit = characters.next()?.to_ascii_uppercase();
        let is_key = matches!(digit, '0'..='9' | '*' | '#' | 'A'..='D');
        (is_key && characters.next().is_none()).then_some(Self(digit))
    }
}

impl fmt::Display for Digit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Digit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digit(…)")
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const SID: &str = "5a1e0f9c2b3d4e5f60718293a4b5c6d7";

    fn read(frame: &Value) -> Result<Frame, BadName> {
        Frame::parse(&frame.to_string())
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
    fn a_start_says_whose_audio_it_is_and_nothing_of_the_urls_secret() {
        let started = read(&a_start()).unwrap();
        assert!(!format!("{started:?}").contains("hush"));
        let expected = Frame::Start {
            call_sid: sid(),
            sample_rate: Some(8_000),
        };
        assert_eq!(started, expected);
    }

    #[test]
    fn a_stop_says_why_and_an_unknown_reason_is_a_stop_too() {
        for (said, reason) in [
            ("stopped", StopReason::Stopped),
            ("callended", StopReason::CallEnded),
            ("on a whim", StopReason::Stopped),
        ] {
            let frame = json!({ "event": "stop", "stop": { "call_sid": SID, "reason": said } });
            let call_sid = sid();
            assert_eq!(read(&frame), Ok(Frame::Stop { call_sid, reason }));
        }
    }

    #[test]
    fn a_key_is_read_whether_its_numbers_are_numbers_or_text() {
        for (digit, duration, key, duration_ms) in [
            (json!("5"), json!("200"), '5', Some(200)),
            (json!(5), json!(200), '5', Some(200)),
            (json!("#"), json!(""), '#', None),
            (json!("d"), Value::Null, 'D', None),
        ] {
            let dtmf = Dtmf {
                digit: Digit(key),
                duration_ms,
                sequence_number: Some(7),
            };
            assert_eq!(format!("{:?}", dtmf.digit), "Digit(…)");
            assert_eq!(read(&a_dtmf(&digit, &duration)), Ok(Frame::Dtmf(dtmf)));
        }
        let flat = read(&json!({ "event": "dtmf", "digit": "*" }));
        assert!(matches!(flat, Ok(Frame::Dtmf(dtmf)) if dtmf.digit == Digit('*')));
    }

    #[test]
    fn what_needs_nothing_done_is_passed_by() {
        for event in ["connected", "mark", "clear", "silence"] {
            assert_eq!(read(&json!({ "event": event })), Ok(Frame::Passing));
        }
        assert_eq!(read(&a_media(1_600)), Ok(Frame::Passing));
    }

    #[test]
    fn audio_of_every_sample_rate_fits_into_one_message() {
        // 100 ms of 16-bit samples, as Exotel sends them.
        for sample_rate in [8_000, 16_000, 24_000] {
            let frame = a_media(sample_rate / 10 * 2).to_string();
            assert!(frame.len() < 32 * 1024, "{sample_rate} Hz");
        }
        // The most that a frame of API Gateway holds, 32 KB.
        assert!(a_media(24_000).to_string().len() < 32 * 1024);
    }

    #[test]
    fn what_is_wrong_is_named() {
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
        assert_eq!(Frame::parse("{").unwrap_err().what, "a frame");
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
        fn no_text_makes_it_panic(text in ".{0,200}") {
            let _refused_or_read = Frame::parse(&text);
        }

        #[test]
        fn no_frame_makes_it_panic(
            event in prop_oneof![Just("start"), Just("media"), Just("dtmf"), Just("stop"), Just("mark")],
            part in any_value(),
            sequence_number in any_value(),
        ) {
            let frame = json!({ "event": event, event: part, "sequence_number": sequence_number });
            let _refused_or_read = read(&frame);
        }
    }
}
