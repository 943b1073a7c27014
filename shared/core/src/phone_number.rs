//! Telephone numbers, and who calls.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{BadName, Extension};

/// A telephone number: E.164 (`+918047491899`), or the digits of a short code as they arrived.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PhoneNumber(String);

/// For stored numbers. A number from outside goes through [`PhoneNumber::parse`].
impl TryFrom<String> for PhoneNumber {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        let digits = text.strip_prefix('+').unwrap_or(&text);
        let is_number = is_digits(digits);
        is_number.then_some(Self(text)).ok_or(BadName {
            what: "number",
            rule: "must be 1 to 32 digits, with '+' before them or not",
        })
    }
}

impl From<PhoneNumber> for String {
    fn from(number: PhoneNumber) -> Self {
        number.0
    }
}

fn is_digits(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

impl PhoneNumber {
    /// Reads a number as Exotel (`09876543210`), Asterisk (`919876543210`) or a person writes it. `+` and `00` begin a number with a
    /// country code. A number without a country code is one of `country` (ISO 3166, `IN`). `None` if `text` contains no number.
    #[must_use]
    pub fn parse(text: &str, country: &str) -> Option<Self> {
        let compact: String = text
            .chars()
            .filter(|c| !matches!(c, ' ' | '-' | '(' | ')' | '.'))
            .collect();
        let digits = compact.strip_prefix('+').unwrap_or(&compact);
        if !is_digits(digits) {
            return None;
        }
        let global = |digits: &str| phonelib::PhoneNumber::parse(&format!("+{digits}"));
        let national = || phonelib::PhoneNumber::parse_with_country(digits, country);
        // More digits than a national number has, and no trunk prefix: a country code without its plus sign.
        let is_international =
            compact.starts_with('+') || (digits.len() > 10 && !digits.starts_with('0'));
        let parsed = match digits.strip_prefix("00") {
            _ if is_international => global(digits),
            // phonelib reads `0014155550123` as a national number, because Australia dials `0011` before a country code.
            Some(digits) if !digits.starts_with('0') => global(digits).or_else(national),
            _ => national(),
        };
        Some(Self(parsed.map_or_else(
            || digits.to_owned(),
            |number| number.e164().to_owned(),
        )))
    }

    /// Reads a number that has its country code, with or without `+` or `00` before it. One that begins with a single `0`, or that is
    /// valid only without a country code, is one of `country`.
    #[must_use]
    pub fn parse_global(text: &str, country: &str) -> Option<Self> {
        let text = text.trim();
        let says_it_itself = text.starts_with(['+', '0']);
        let global = (!says_it_itself)
            .then(|| Self::parse(&format!("+{text}"), country))
            .flatten();
        global
            .filter(|number| number.0.starts_with('+'))
            .or_else(|| Self::parse(text, country))
    }

    /// Whether it has its country code. Otherwise it is a short code.
    #[must_use]
    pub fn is_e164(&self) -> bool {
        self.0.starts_with('+')
    }

    /// The number as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Numbers are personal: logs show only the last two digits.
impl fmt::Debug for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.len().saturating_sub(2);
        write!(f, "…{}", &self.0[shown..])
    }
}

/// Who calls: a person on the telephone network, or an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The caller's number. `None` if it is withheld.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<PhoneNumber>,
    /// The caller's name, if the network or the PBX knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<CallerName>,
    /// The extension of the app, if an app calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extension: Option<Extension>,
}

impl Caller {
    /// The text in place of a withheld number.
    pub const WITHHELD: &str = "anonymous";

    /// An app as the caller.
    #[must_use]
    pub const fn app(extension: Extension) -> Self {
        Self {
            number: None,
            name: None,
            extension: Some(extension),
        }
    }

    /// A person on the telephone network as the caller. The number is `None` if it is withheld.
    #[must_use]
    pub const fn on_network(number: Option<PhoneNumber>, name: Option<CallerName>) -> Self {
        Self {
            number,
            name,
            extension: None,
        }
    }

    /// The text that the callee sees: the number, the extension, or [`Caller::WITHHELD`].
    #[must_use]
    pub fn shown(&self) -> &str {
        let extension = self.extension.as_ref().map(Extension::as_str);
        let number = self.number.as_ref().map(PhoneNumber::as_str);
        extension.or(number).unwrap_or(Self::WITHHELD)
    }
}

/// A caller's name: any script, at most 64 characters, without characters that control a terminal, break a line or change the
/// direction of the text around the name. Personal, so hidden from `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CallerName(String);

impl TryFrom<String> for CallerName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        Self::parse(&text).ok_or(BadName {
            what: "caller_name",
            rule: "holds nothing that can be shown",
        })
    }
}

impl From<CallerName> for String {
    fn from(name: CallerName) -> Self {
        name.0
    }
}

impl CallerName {
    /// The name in `text`. `None` if nothing printable is left.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let name: String = text.chars().filter(is_allowed_in_name).take(64).collect();
        let name = name.trim();
        (!name.is_empty()).then(|| Self(name.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Direction marks (U+200E, U+200F, U+061C) and joiners belong to names. Embeddings, overrides and isolates (U+202A to U+202E, U+2066
/// to U+2069) would change the text after the name.
fn is_allowed_in_name(c: &char) -> bool {
    let changes_direction = matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !changes_direction
}

impl fmt::Debug for CallerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerName(…)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> Option<String> {
        PhoneNumber::parse(text, "IN").map(|number| number.to_string())
    }

    #[test]
    fn a_stored_value_is_checked_too() {
        let number = |text: &str| serde_json::from_value::<PhoneNumber>(text.into());
        assert_eq!(number("+919876543210").unwrap().as_str(), "+919876543210");
        for text in ["k919876543210", "", "+", "98 76", "é"] {
            assert!(number(text).is_err(), "{text}");
        }
        let name = |text: &str| serde_json::from_value::<CallerName>(text.into());
        assert_eq!(name("Asha\r\nRao").unwrap().as_str(), "AshaRao");
        assert!(name("\n").is_err());
    }

    #[test]
    fn five_spellings_of_a_number_are_equal() {
        for text in [
            "+919876543210",
            "919876543210",
            "9876543210",
            "09876543210",
            "+91 98765-43210",
        ] {
            assert_eq!(number(text).as_deref(), Some("+919876543210"), "{text}");
        }
    }

    #[test]
    fn a_landline_and_a_foreign_number_keep_their_country_code() {
        assert_eq!(number("08047491899").as_deref(), Some("+918047491899"));
        assert_eq!(number("+442071838750").as_deref(), Some("+442071838750"));
    }

    #[test]
    fn a_foreign_number_is_recognized_by_a_plus_sign_or_two_zeros() {
        for (text, expected) in [
            ("+14155550123", "+14155550123"),
            ("0014155550123", "+14155550123"),
            ("14155550123", "+14155550123"),
            ("00 65 6123 4567", "+6561234567"),
            ("00919876543210", "+919876543210"),
            // Too short for any country.
            ("0012", "0012"),
        ] {
            assert_eq!(number(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_number_that_has_its_country_code_needs_no_plus_sign() {
        let global = |text: &str| PhoneNumber::parse_global(text, "IN").map(String::from);
        for (text, expected) in [
            // Ten digits, which would be a national number otherwise.
            ("6561234567", "+6561234567"),
            ("+6561234567", "+6561234567"),
            ("006561234567", "+6561234567"),
            ("09876543210", "+919876543210"),
            ("919876543210", "+919876543210"),
            ("56161", "56161"),
        ] {
            assert_eq!(global(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(global("anonymous"), None);
    }

    proptest! {
        /// In all forms that a trunk may send, for callers of any country.
        #[test]
        fn a_valid_number_is_the_same_in_each_form(digits in "[1-9][0-9]{7,14}") {
            let plus = format!("+{digits}");
            let known = phonelib::PhoneNumber::parse(&plus);
            prop_assume!(known.is_some_and(|known| known.e164() == plus));
            for country in ["IN", "US", "GB", "SG"] {
                for text in [plus.clone(), format!("00{digits}")] {
                    let read = PhoneNumber::parse(&text, country).map(String::from);
                    prop_assert_eq!(read.as_ref(), Some(&plus), "{} in {}", text, country);
                }
                for text in [&plus, &digits, &format!("00{digits}")] {
                    let read = PhoneNumber::parse_global(text, country).map(String::from);
                    prop_assert_eq!(read.as_ref(), Some(&plus), "{} in {}", text, country);
                }
            }
        }

        #[test]
        fn a_parsed_number_is_digits(text in ".*") {
            for number in [PhoneNumber::parse(&text, "IN"), PhoneNumber::parse_global(&text, "IN")] {
                prop_assert!(number.is_none_or(|number| PhoneNumber::try_from(number.0.clone()).is_ok()));
            }
        }
    }

    #[test]
    fn a_short_code_stays_as_it_is() {
        assert_eq!(number("56161").as_deref(), Some("56161"));
    }

    #[test]
    fn a_text_without_a_number_is_none() {
        for text in [
            "",
            "anonymous",
            "Restricted",
            "+",
            "sip:x@y",
            "98765;drop",
            "९८७६५४३२१०",
        ] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn a_name_keeps_any_script_and_loses_control_characters() {
        let name = |text: &str| CallerName::parse(text).map(|name| name.as_str().to_owned());
        for text in [
            "आशा \"A\", 📞",
            "\u{200f}مريم (Haifa)",
            "👩‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
            "O'Neil; ${X} $[1] \\ <b>",
        ] {
            assert_eq!(name(text).as_deref(), Some(text));
        }
        for (text, kept) in [
            ("Asha\r\nVia: x\u{1b}[31m\u{0}", "AshaVia: x[31m"),
            ("Bank\u{202e}knaB\u{2066}!\u{2028}", "BankknaB!"),
            (&"अ".repeat(65), "अ".repeat(64).as_str()),
        ] {
            assert_eq!(name(text).as_deref(), Some(kept));
        }
        assert_eq!(name(" \u{202e}\t"), None);
    }

    #[test]
    fn personal_values_do_not_show_in_debug() {
        let caller = Caller::on_network(
            PhoneNumber::parse("9876543210", "IN"),
            CallerName::parse("Asha"),
        );
        let shown = format!("{caller:?}");
        assert!(
            !shown.contains("98765") && !shown.contains("Asha"),
            "{shown}"
        );
    }
}
