//! Which phone numbers apps may call through Exotel. The deployment's owner pays for each such call.
//!
//! The rules protect against toll fraud (IRSF): an attacker with a stolen token calls expensive numbers, and the operator of
//! those numbers pays the attacker a share. Twilio, Plivo, Telnyx and Amazon Connect use the same protection: a list of
//! allowed destinations, which excludes premium-rate ranges by default. Exotel dials both numbers of a call, so both are
//! checked.

use phonelib::PhoneNumberType;

use crate::platform::config::{ConfigError, Environment};
use ringback_core::phone_number::PhoneNumber;

/// The numbers that apps may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialRules {
    caller_id: CallerIdPolicy,
    /// ISO 3166. Only numbers of this country are allowed if `prefixes` is empty.
    country: String,
    prefixes: Vec<Prefix>,
}

/// Which caller's number an app may specify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerIdPolicy {
    /// Only the number of its extension in the table.
    Own,
    /// Any number that may be called.
    Any,
}

/// The rule that a call violates. The text goes to the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialRuleViolation {
    /// The caller's number is not that of the app's extension.
    #[error(
        "callerId must be your own extension or its own telephone number; leave it out to use that number"
    )]
    CallerId,
    /// The number does not begin with an allowed prefix.
    #[error(
        "this deployment does not call that country or range; ask its operator to add the prefix to AllowedPrefixes"
    )]
    Prefix,
    /// The number's type costs more than ordinary numbers of its country.
    #[error(
        "premium-rate, shared-cost, personal and pager numbers are not called; ask the operator to add their range to AllowedPrefixes"
    )]
    NumberType,
}

impl DialRuleViolation {
    /// The value of the dimension `rule` in the metric `calls_refused`.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::CallerId => "caller_id",
            Self::Prefix => "prefix",
            Self::NumberType => "number_type",
        }
    }
}

/// An entry of `ALLOWED_PREFIXES`: `+91` allows, `!+1876` forbids, `*` allows every number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Prefix {
    allows: bool,
    /// With the plus sign; empty for `*`.
    text: String,
}

impl Prefix {
    fn parse(entry: &str) -> Option<Self> {
        let (allows, text) = match entry.strip_prefix('!') {
            Some(text) => (false, text),
            None => (true, entry),
        };
        let digits = match text {
            "*" => "",
            _ => text
                .strip_prefix('+')
                .filter(|digits| (1..=15).contains(&digits.len()))?,
        };
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        let text = text.trim_start_matches('*').to_owned();
        is_number.then_some(Self { allows, text })
    }
}

impl DialRules {
    /// Reads `CALLER_ID_POLICY` (`own`, the default, or `any`) and `ALLOWED_PREFIXES`. Without prefixes, only numbers of
    /// `country` (ISO 3166) are allowed.
    ///
    /// # Errors
    /// When a variable is malformed, or there are no prefixes and `country` does not exist.
    pub fn from_environment(
        environment: &Environment,
        country: String,
    ) -> Result<Self, ConfigError> {
        let invalid = |name, rule| ConfigError::Invalid { name, rule };
        let caller_id = match environment.optional("CALLER_ID_POLICY").as_deref() {
            None | Some("own") => CallerIdPolicy::Own,
            Some("any") => CallerIdPolicy::Any,
            Some(_) => return Err(invalid("CALLER_ID_POLICY", "own or any")),
        };
        let listed = environment.optional("ALLOWED_PREFIXES").unwrap_or_default();
        let entries = listed.split(',').filter(|entry| !entry.is_empty());
        let prefixes: Option<Vec<Prefix>> = entries.map(Prefix::parse).collect();
        let prefixes = prefixes.ok_or_else(|| {
            invalid(
                "ALLOWED_PREFIXES",
                "a list such as +91,+65,!+6590 with commas and no spaces, or *",
            )
        })?;
        if prefixes.is_empty() && phonelib::country_by_code(&country).is_none() {
            return Err(invalid("DEFAULT_COUNTRY", "a country such as IN"));
        }
        Ok(Self {
            caller_id,
            country,
            prefixes,
        })
    }

    /// Which caller's number an app may specify.
    #[must_use]
    pub const fn caller_id(&self) -> CallerIdPolicy {
        self.caller_id
    }

    /// Checks whether apps may call this number.
    ///
    /// The longest matching prefix decides. An expensive number (see [`costs_more`]) is allowed only by `*`, or by a prefix
    /// that is longer than its country code.
    ///
    /// # Errors
    /// The rule that forbids the number.
    pub fn allow(&self, number: &PhoneNumber) -> Result<(), DialRuleViolation> {
        // Only an E.164 number is in a numbering plan. Of other digits, the library would drop leading zeros.
        let is_e164 = number.as_str().starts_with('+');
        let known = phonelib::PhoneNumber::parse(number.as_str()).filter(|_| is_e164);
        let expensive = known
            .as_ref()
            .is_some_and(|known| costs_more(known.phone_type()));
        let (matches, names_range) = if self.prefixes.is_empty() {
            let is_domestic = known.is_some_and(|known| known.country().code == self.country);
            (is_domestic, false)
        } else {
            let matching = self.prefixes.iter();
            let matching = matching.filter(|prefix| number.as_str().starts_with(&prefix.text));
            // Of two equal prefixes, the one that forbids wins.
            let longest = matching.max_by_key(|prefix| (prefix.text.len(), !prefix.allows));
            let Some(prefix) = longest.filter(|prefix| prefix.allows) else {
                return Err(DialRuleViolation::Prefix);
            };
            let country_code = known.map_or(0, |known| known.country_code().to_string().len());
            let names_range = prefix.text.is_empty() || prefix.text.len() > country_code + 1;
            (true, names_range)
        };
        match (matches, expensive && !names_range) {
            (false, _) => Err(DialRuleViolation::Prefix),
            (true, true) => Err(DialRuleViolation::NumberType),
            (true, false) => Ok(()),
        }
    }
}

/// Whether numbers of this type cost the caller more than ordinary numbers of the same country. The types are those of
/// libphonenumber; a number of unknown type counts as ordinary.
const fn costs_more(kind: PhoneNumberType) -> bool {
    matches!(
        kind,
        PhoneNumberType::PremiumRate
            | PhoneNumberType::SharedCost
            | PhoneNumberType::PersonalNumber
            | PhoneNumberType::Pager
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> PhoneNumber {
        PhoneNumber::parse(text, "IN").unwrap()
    }

    fn rules(country: &str, prefixes: &str) -> DialRules {
        let entries = prefixes.split(',').filter(|entry| !entry.is_empty());
        DialRules {
            caller_id: CallerIdPolicy::Own,
            country: country.to_owned(),
            prefixes: entries.map(|entry| Prefix::parse(entry).unwrap()).collect(),
        }
    }

    #[track_caller]
    fn check_all(country: &str, prefixes: &str, cases: &[(&str, Result<(), DialRuleViolation>)]) {
        let rules = rules(country, prefixes);
        for (text, expected) in cases {
            let allowed = rules.allow(&number(text));
            assert_eq!(allowed, *expected, "{text} with {country} and {prefixes:?}");
        }
    }

    #[test]
    fn without_prefixes_only_ordinary_domestic_numbers_are_allowed() {
        let cases = [
            ("09876543210", Ok(())),
            ("+918047491899", Ok(())),
            ("+442071838750", Err(DialRuleViolation::Prefix)),
            // Satellites: Inmarsat, Iridium.
            ("+870773111632", Err(DialRuleViolation::Prefix)),
            ("+881612345678", Err(DialRuleViolation::Prefix)),
            ("00442071838750", Err(DialRuleViolation::Prefix)),
            ("00091010000000", Err(DialRuleViolation::Prefix)),
            // In no numbering plan.
            ("99912345678901234", Err(DialRuleViolation::Prefix)),
        ];
        check_all("IN", "", &cases);
    }

    #[test]
    fn a_shared_country_code_allows_only_the_country_itself() {
        let jamaica = ("+18765550123", Err(DialRuleViolation::Prefix));
        check_all("US", "", &[("+12125550123", Ok(())), jamaica]);
        let guernsey = ("+441481960194", Err(DialRuleViolation::Prefix));
        check_all("GB", "", &[("+442071838750", Ok(())), guernsey]);
    }

    #[test]
    fn expensive_numbers_are_allowed_only_by_a_prefix_of_their_range() {
        let expensive = [
            "+19002345678",
            "+449098790123",
            "+448432222222",
            "+447012345678",
        ];
        for text in expensive {
            let refused = [(text, Err(DialRuleViolation::NumberType))];
            check_all("US", "+1,+44", &refused);
            check_all("US", "*", &[(text, Ok(()))]);
        }
        check_all(
            "US",
            "",
            &[(expensive[0], Err(DialRuleViolation::NumberType))],
        );
        check_all(
            "GB",
            "",
            &[(expensive[1], Err(DialRuleViolation::NumberType))],
        );
        check_all("US", "+1900", &[(expensive[0], Ok(()))]);
        check_all("GB", "+44,+4490", &[(expensive[1], Ok(()))]);
    }

    #[test]
    fn the_longest_prefix_decides() {
        let cases = [
            ("+12125550123", Ok(())),
            ("+18765550123", Err(DialRuleViolation::Prefix)),
            ("+18765551123", Ok(())),
            ("+919876543210", Err(DialRuleViolation::Prefix)),
        ];
        check_all("IN", "+1,!+1876,+18765551", &cases);
        let cases = [
            ("+881612345678", Err(DialRuleViolation::Prefix)),
            ("+18765550123", Ok(())),
        ];
        check_all("IN", "*,!+881", &cases);
        check_all(
            "IN",
            "+91,!+91",
            &[("+919876543210", Err(DialRuleViolation::Prefix))],
        );
    }

    #[test]
    fn the_configuration_has_safe_defaults_and_rejects_malformed_values() {
        let of = |read| DialRules::from_environment(&Environment::of(read), "IN".to_owned());
        assert_eq!(of(|_| None).unwrap(), rules("IN", ""));
        let open = of(|name| {
            Some(
                if name == "CALLER_ID_POLICY" {
                    "any"
                } else {
                    "*"
                }
                .to_owned(),
            )
        });
        let expected = DialRules {
            caller_id: CallerIdPolicy::Any,
            ..rules("IN", "*")
        };
        assert_eq!(open.unwrap(), expected);
        for malformed in [
            "91",
            "+",
            "+91 ",
            "+91;+65",
            "!!+91",
            "**",
            "+1234567890123456",
        ] {
            assert_eq!(Prefix::parse(malformed), None, "{malformed}");
        }
        let nowhere = Environment::of(|_| None);
        let error = DialRules::from_environment(&nowhere, "XX".to_owned()).unwrap_err();
        assert!(error.to_string().contains("DEFAULT_COUNTRY"), "{error}");
    }

    proptest! {
        /// Every allowed number begins with the country's code.
        #[test]
        fn no_foreign_number_is_allowed_by_default(text in "\\+?[0-9]{5,20}") {
            if let Some(number) = PhoneNumber::parse(&text, "IN")
                && rules("IN", "").allow(&number).is_ok()
            {
                prop_assert!(number.as_str().starts_with("+91"), "{}", number);
            }
        }
    }
}
