//! Which telephone numbers an app may have Exotel dial. Each such call is on the owner's bill.
//!
//! Toll fraud (IRSF): a thief calls expensive numbers with a stolen token, and their operator pays the thief a share. Twilio,
//! Plivo, Telnyx and Amazon Connect all use the same defence: a list of allowed destinations, which excludes premium-rate
//! ranges by default. Exotel dials both numbers of a call, so both are checked.

use phonelib::PhoneNumberType;

use crate::platform::config::{ConfigError, Environment};
use ringback_core::phone_number::PhoneNumber;

/// What an app may have dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialRules {
    caller_id: CallerIdPolicy,
    /// ISO 3166. Its numbers are allowed while `prefixes` is empty.
    country: String,
    prefixes: Vec<Prefix>,
}

/// Which number an app may name as its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerIdPolicy {
    /// Only the number that the table has for its extension.
    Own,
    /// Any number that may be dialled.
    Any,
}

/// Why a call may not be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
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
    /// The number costs more than others of its country.
    #[error(
        "premium-rate, shared-cost, personal and pager numbers are not called; ask the operator to add their range to AllowedPrefixes"
    )]
    NumberType,
}

impl Forbidden {
    /// The rule's name, as the metric `calls_refused` has it.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::CallerId => "caller_id",
            Self::Prefix => "prefix",
            Self::NumberType => "number_type",
        }
    }
}

/// `+91`, `!+1876` or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Prefix {
    allows: bool,
    /// With its plus sign; empty for `*`.
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
    /// `CALLER_ID_POLICY` (`own`, unless it says `any`) and `ALLOWED_PREFIXES`. Without prefixes, the numbers of `country`
    /// (ISO 3166) are allowed.
    ///
    /// # Errors
    /// When a variable makes no sense, or there are no prefixes and no such country.
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

    /// Which number an app may name as its caller.
    #[must_use]
    pub const fn caller_id(&self) -> CallerIdPolicy {
        self.caller_id
    }

    /// Whether Exotel may be asked to dial this number.
    ///
    /// The longest prefix that fits decides. Number types that cost more (see [`costs_more`]) are dialled only for a prefix
    /// that names more than their country code, and for `*`.
    ///
    /// # Errors
    /// The rule that forbids it.
    pub fn allow(&self, number: &PhoneNumber) -> Result<(), Forbidden> {
        let known = phonelib::PhoneNumber::parse(number.as_str());
        let expensive = known
            .as_ref()
            .is_some_and(|known| costs_more(known.phone_type()));
        let (fits, names_range) = if self.prefixes.is_empty() {
            let at_home = known.is_some_and(|known| known.country().code == self.country);
            (at_home, false)
        } else {
            let fitting = self.prefixes.iter();
            let fitting = fitting.filter(|prefix| number.as_str().starts_with(&prefix.text));
            let longest = fitting.max_by_key(|prefix| (prefix.text.len(), !prefix.allows));
            let Some(prefix) = longest.filter(|prefix| prefix.allows) else {
                return Err(Forbidden::Prefix);
            };
            let country_code = known.map_or(0, |known| known.country_code().to_string().len());
            let names_range = prefix.text.is_empty() || prefix.text.len() > country_code + 1;
            (true, names_range)
        };
        match (fits, expensive && !names_range) {
            (false, _) => Err(Forbidden::Prefix),
            (true, true) => Err(Forbidden::NumberType),
            (true, false) => Ok(()),
        }
    }
}

/// Whether a number of this type costs the caller more than others of its country, by libphonenumber's ranges. A range that
/// those do not know counts as ordinary.
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
    fn check(country: &str, prefixes: &str, cases: &[(&str, Result<(), Forbidden>)]) {
        let rules = rules(country, prefixes);
        for (text, expected) in cases {
            let allowed = rules.allow(&number(text));
            assert_eq!(allowed, *expected, "{text} with {country} and {prefixes:?}");
        }
    }

    #[test]
    fn without_prefixes_only_ordinary_numbers_of_the_country_are_dialled() {
        let cases = [
            ("09876543210", Ok(())),
            ("+918047491899", Ok(())),
            ("+442071838750", Err(Forbidden::Prefix)),
            // Satellites: Inmarsat, Iridium.
            ("+870773111632", Err(Forbidden::Prefix)),
            ("+881612345678", Err(Forbidden::Prefix)),
            ("00442071838750", Err(Forbidden::Prefix)),
            // In no numbering plan.
            ("99912345678901234", Err(Forbidden::Prefix)),
        ];
        check("IN", "", &cases);
    }

    #[test]
    fn a_country_code_that_countries_share_opens_only_the_country_itself() {
        let jamaica = ("+18765550123", Err(Forbidden::Prefix));
        check("US", "", &[("+12125550123", Ok(())), jamaica]);
        let guernsey = ("+441481960194", Err(Forbidden::Prefix));
        check("GB", "", &[("+442071838750", Ok(())), guernsey]);
    }

    #[test]
    fn numbers_that_cost_more_are_dialled_only_where_their_range_is_named() {
        let expensive = [
            "+19002345678",
            "+449098790123",
            "+448432222222",
            "+447012345678",
        ];
        for text in expensive {
            let refused = [(text, Err(Forbidden::NumberType))];
            check("US", "+1,+44", &refused);
            check("US", "*", &[(text, Ok(()))]);
        }
        check("US", "", &[(expensive[0], Err(Forbidden::NumberType))]);
        check("GB", "", &[(expensive[1], Err(Forbidden::NumberType))]);
        check("US", "+1900", &[(expensive[0], Ok(()))]);
        check("GB", "+44,+4490", &[(expensive[1], Ok(()))]);
    }

    #[test]
    fn the_longest_prefix_decides() {
        let cases = [
            ("+12125550123", Ok(())),
            ("+18765550123", Err(Forbidden::Prefix)),
            ("+18765551123", Ok(())),
            ("+919876543210", Err(Forbidden::Prefix)),
        ];
        check("IN", "+1,!+1876,+18765551", &cases);
        let cases = [
            ("+881612345678", Err(Forbidden::Prefix)),
            ("+18765550123", Ok(())),
        ];
        check("IN", "*,!+881", &cases);
        check(
            "IN",
            "+91,!+91",
            &[("+919876543210", Err(Forbidden::Prefix))],
        );
    }

    #[test]
    fn configuration_has_safe_defaults_and_refuses_nonsense() {
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
        for nonsense in [
            "91",
            "+",
            "+91 ",
            "+91;+65",
            "!!+91",
            "**",
            "+1234567890123456",
        ] {
            assert_eq!(Prefix::parse(nonsense), None, "{nonsense}");
        }
        let nowhere = Environment::of(|_| None);
        let error = DialRules::from_environment(&nowhere, "XX".to_owned()).unwrap_err();
        assert!(error.to_string().contains("DEFAULT_COUNTRY"), "{error}");
    }

    proptest! {
        /// Every number that may be dialled begins with the country's code.
        #[test]
        fn nothing_abroad_is_dialled_by_default(text in "\\+?[0-9]{5,20}") {
            if let Some(number) = PhoneNumber::parse(&text, "IN")
                && rules("IN", "").allow(&number).is_ok()
            {
                prop_assert!(number.as_str().starts_with("+91"), "{}", number);
            }
        }
    }
}
