//! `/api/admin/…`: an admin reads and changes the directories. Reads the requests, and decides what a change does to an entry.

use crate::api::error::ApiError;
use crate::api::error_code::ApiErrorCode;
use crate::api::json_fields::{object, text};
use crate::exotel::dial_rules::DialRules;
use crate::store::directories::{Directory, EntryKey, etag};
use ringback_core::ids::{BadName, Extension};
use ringback_core::phone_number::PhoneNumber;

impl EntryKey {
    /// Reads the key of an entry, a number in any notation that a call may have: `country` (ISO 3166) is that of a number without a
    /// country code. All notations of a number are one entry.
    ///
    /// # Errors
    /// When it is no number, or no extension.
    pub fn parse(directory: Directory, text: &str, country: &str) -> Result<Self, BadName> {
        Ok(match directory {
            Directory::Numbers => Self::Number(number(text, country)?),
            Directory::Extensions => Self::Extension(Extension::try_from(text)?),
        })
    }

    /// Reads the value of an entry from a body: `{"extension": …}` of a number, `{"number": …}` of an extension. `rules` are those of
    /// calls to telephones, because Exotel calls the number of an extension.
    ///
    /// # Errors
    /// When a call would not accept the value, or the body has another field. The error names the field.
    pub fn parse_value(
        &self,
        body: &[u8],
        country: &str,
        rules: &DialRules,
    ) -> Result<String, ApiError> {
        let fields = object(body)?;
        let name = self.directory().value_name();
        if let Some(unknown) = fields.keys().find(|field| *field != name) {
            let message = format!("{unknown:.64} is not a field here; the only field is {name}");
            return Err(ApiError::with_message(ApiErrorCode::BadField, message));
        }
        let text = text(&fields, name)?;
        match self {
            Self::Number(_) => Ok(Extension::try_from(text)?.into()),
            Self::Extension(_) => {
                let number = number(text, country)?;
                let forbidden = |rule| format!("{name} must be one that apps may call: {rule}");
                match rules.allow(&number) {
                    Ok(()) => Ok(number.into()),
                    Err(rule) => Err(ApiError::with_message(
                        ApiErrorCode::BadField,
                        forbidden(rule),
                    )),
                }
            }
        }
    }
}

fn number(text: &str, country: &str) -> Result<PhoneNumber, BadName> {
    // If the digits after a `+` are no number, the parser drops the `+`. A call would not find them under that name.
    let keeps_its_country = |number: &PhoneNumber| !text.contains('+') || number.is_e164();
    let number = PhoneNumber::parse(text, country).filter(keeps_its_country);
    number.ok_or(BadName {
        what: "number",
        rule: "must be a telephone number, such as +918047491899",
    })
}

/// What a request expects of an entry: `If-Match` and `If-None-Match` (RFC 9110, 13.1). Without them, the last change wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expectation {
    /// The entry has one of these `ETag`s, or `*`: it exists.
    one_of: Option<Vec<String>>,
    /// There is no entry.
    is_new: bool,
}

/// What a change does to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Write it.
    Write,
    /// The entry has this value already, for example because the request is repeated.
    Done,
    /// The entry is not as expected.
    Refuse,
    /// There is nothing to delete.
    Missing,
}

impl Expectation {
    /// Reads the two headers.
    ///
    /// # Errors
    /// When one is malformed. The error names it.
    pub fn parse(if_match: Option<&str>, if_none_match: Option<&str>) -> Result<Self, BadName> {
        let one_of = if_match.map(|header| header.split(',').map(str::trim).map(str::to_owned));
        let one_of: Option<Vec<String>> = one_of.map(Iterator::collect);
        let is_quoted = |one: &str| one.len() > 1 && one.starts_with('"') && one.ends_with('"');
        let is_etag = |one: &String| one == "*" || is_quoted(one.trim_start_matches("W/"));
        if !one_of.iter().flatten().all(is_etag) {
            return Err(BadName {
                what: "If-Match",
                rule: "must be an ETag with its quotes, or *",
            });
        }
        match if_none_match {
            None | Some("*") => Ok(Self {
                one_of,
                is_new: if_none_match.is_some(),
            }),
            Some(_) => Err(BadName {
                what: "If-None-Match",
                rule: "must be *",
            }),
        }
    }

    /// What a change from `before` to `after` does; `None` is no entry. A repeated change is done and not refused, although its
    /// `If-Match` names the value before (RFC 9110, 13.1.1). A weak `ETag` matches nothing, as it says too.
    #[must_use]
    pub fn decide(&self, before: Option<&str>, after: Option<&str>) -> Decision {
        if before.is_none() && after.is_none() {
            return Decision::Missing;
        }
        if self.is_new && before.is_some() {
            return Decision::Refuse;
        }
        if before == after {
            return Decision::Done;
        }
        let matches = |one: &String| before.is_some_and(|it| one == "*" || *one == etag(it));
        match &self.one_of {
            Some(one_of) if !one_of.iter().any(matches) => Decision::Refuse,
            _ => Decision::Write,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::platform::config::Environment;

    fn rules() -> DialRules {
        DialRules::from_environment(&Environment::of(|_| None), "IN".to_owned()).unwrap()
    }

    fn key(directory: Directory, text: &str) -> Result<EntryKey, BadName> {
        EntryKey::parse(directory, text, "IN")
    }

    fn value(directory: Directory, body: &str) -> Result<String, String> {
        let text = match directory {
            Directory::Numbers => "+918047491899",
            Directory::Extensions => "1001",
        };
        let value = key(directory, text).unwrap();
        let value = value.parse_value(body.as_bytes(), "IN", &rules());
        value.map_err(|error| error.into_body()["error"].as_str().unwrap().to_owned())
    }

    #[test]
    fn a_value_is_stored_as_calls_read_it() {
        let extension = value(Directory::Numbers, r#"{"extension":"1001"}"#);
        assert_eq!(extension.as_deref(), Ok("1001"));
        for notation in ["09800001001", "+91 98000-01001", " 0091 9800001001 "] {
            let body = serde_json::json!({ "number": notation }).to_string();
            let number = value(Directory::Extensions, &body);
            assert_eq!(number.as_deref(), Ok("+919800001001"), "{notation}");
        }
    }

    #[test]
    fn an_error_names_the_field() {
        let (numbers, extensions) = (Directory::Numbers, Directory::Extensions);
        for (directory, body, name) in [
            (numbers, r#"{"extension":"10 01"}"#, "extension "),
            (numbers, r#"{"extension":"1001 "}"#, "extension "),
            (numbers, r#"{"extension":1001}"#, "extension "),
            (numbers, r#"{"extension":null}"#, "extension "),
            (numbers, "{}", "extension "),
            (numbers, r#"{"extension":"1001","ext":"1"}"#, "ext is not"),
            (numbers, r#"{"number":"1001"}"#, "number is not"),
            (extensions, r#"{"number":"+9198000"}"#, "number "),
            (extensions, r#"{"number":"1001"}"#, "number "),
            (extensions, r#"{"number":"+14155550123"}"#, "number "),
            (
                extensions,
                "{\"number\":\"+919800001001\u{202c}\"}",
                "number ",
            ),
            (extensions, r#"{"extension":"1001"}"#, "extension is not"),
            (numbers, "[]", "the body "),
        ] {
            let error = value(directory, body).unwrap_err();
            assert!(error.starts_with(name), "{body}: {error}");
        }
        for wrong in ["", "abc", "+91804749", "+918047491899\u{202c}", "*"] {
            assert_eq!(key(numbers, wrong).unwrap_err().what, "number", "{wrong}");
        }
        assert_eq!(key(extensions, "10/01").unwrap_err().what, "extension");
        // The digits of a short code are stored as they are, because a call reports them so.
        assert_eq!(key(numbers, "1909").unwrap().as_str(), "1909");
    }

    #[test]
    fn a_malformed_header_is_named() {
        for wrong in ["", "abc", "\"", "\"a\", b"] {
            let error = Expectation::parse(Some(wrong), None).unwrap_err();
            assert_eq!(error.what, "If-Match", "{wrong}");
        }
        let error = Expectation::parse(None, Some("\"a\"")).unwrap_err();
        assert_eq!(error.what, "If-None-Match");
    }

    #[test]
    fn what_is_expected_decides() {
        use Decision::{Done, Missing, Refuse, Write};
        let (old, new) = (Some("1001"), Some("1002"));
        let (of_old, of_new) = (etag("1001"), etag("1002"));
        let weak = format!("W/{of_old}");
        let several = format!("{of_new} , {of_old}");
        for (if_match, if_none_match, before, after, expected) in [
            (None, None, None, new, Write),
            (None, None, old, new, Write),
            (None, None, old, old, Done),
            (None, None, old, None, Write),
            (None, None, None, None, Missing),
            (Some(&*of_old), None, old, new, Write),
            (Some(&*several), None, old, new, Write),
            (Some("*"), None, old, new, Write),
            (Some("*"), None, None, new, Refuse),
            (Some(&*of_old), None, None, new, Refuse),
            (Some(&*of_new), None, old, Some("1003"), Refuse),
            (Some(&*weak), None, old, new, Refuse),
            // It is repeated.
            (Some(&*of_old), None, new, new, Done),
            (Some(&*of_old), None, None, None, Missing),
            (Some(&*of_new), None, old, None, Refuse),
            (None, Some("*"), None, new, Write),
            (None, Some("*"), old, new, Refuse),
            (None, Some("*"), old, old, Refuse),
        ] {
            let expectation = Expectation::parse(if_match, if_none_match).unwrap();
            let decision = expectation.decide(before, after);
            assert_eq!(decision, expected, "{expectation:?} {before:?} {after:?}");
        }
    }

    proptest! {
        #[test]
        fn all_notations_of_a_number_are_one_entry(
            subscriber in 8_000_000_000_u64..10_000_000_000,
            prefix in prop::sample::select(vec!["+91", "91", "0091", "0"]),
            gap in prop::sample::select(vec!["", " ", "-", "."]),
            at in 0_usize..9,
        ) {
            let digits = subscriber.to_string();
            let e164 = key(Directory::Numbers, &format!("+91{digits}"));
            // Some are no numbers of India.
            prop_assume!(e164.is_ok());
            let (head, tail) = digits.split_at(at);
            let text = format!(" {prefix}{gap}{head}{gap}{tail} ");
            prop_assert_eq!(key(Directory::Numbers, &text), e164);
        }

        #[test]
        fn a_stored_number_is_read_back_unchanged(text in "[+0-9 ()-]{1,20}") {
            if let Ok(entry) = key(Directory::Numbers, &text) {
                prop_assert_eq!(key(Directory::Numbers, entry.as_str()), Ok(entry));
            }
        }
    }
}
