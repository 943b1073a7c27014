//! `PUT /api/extensions/{extension}/do-not-disturb`: a person wants no calls until a given time.

use std::time::Duration;

use ringback_core::ids::BadName;
use ringback_core::timestamp::Timestamp;
use serde_json::Value;

use crate::api::json_fields::object;

/// A person who forgets it is reachable again after this time.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Reads `{"until": epoch ms}` or `{"until": null}`, and ignores other fields. `None`: the extension takes calls now, also because the
/// time has passed already.
///
/// # Errors
/// When the body is not a JSON object, or `until` is missing, malformed or too far away.
pub fn parse(body: &[u8], now: Timestamp) -> Result<Option<Timestamp>, BadName> {
    let malformed = |rule| BadName {
        what: "until",
        rule,
    };
    let fields = object(body)?;
    let rule = "must be a time in milliseconds since 1970, or null";
    let until = match fields.get("until").ok_or(malformed(rule))? {
        Value::Null => return Ok(None),
        until => until.as_u64().ok_or(malformed(rule))?,
    };
    let until = Timestamp::from_millis(until);
    if until > now + LONGEST {
        return Err(malformed("must be within 365 days"));
    }
    Ok(Some(until).filter(|until| *until > now))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    #[test]
    fn it_lasts_until_a_time_within_a_year_or_is_off() {
        let until = |until: &str| parse(format!("{{\"until\":{until}}}").as_bytes(), NOW);
        let at = |millis| Some(Timestamp::from_millis(millis));
        assert_eq!(until("1710417600001"), Ok(at(1_710_417_600_001)));
        assert_eq!(until("1741953600000"), Ok(at(1_741_953_600_000)));
        for off in ["null", "1710417600000", "0"] {
            assert_eq!(until(off), Ok(None), "{off}");
        }
        for wrong in [
            "1741953600001",
            "-1",
            "1.5",
            "true",
            "\"1710417600001\"",
            "[1]",
            "18446744073709551616",
        ] {
            assert_eq!(until(wrong).unwrap_err().what, "until", "{wrong}");
        }
        assert_eq!(parse(b"{}", NOW).unwrap_err().what, "until");
        assert_eq!(parse(b"null", NOW).unwrap_err().what, "the body");
    }
}
