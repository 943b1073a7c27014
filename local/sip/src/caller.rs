use rsipstack::sip::{Header, Uri, headers::typed};

use crate::{Error, agent::Agent};

/// The caller, as the trunk presents it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The caller's number. For a withheld number, the trunk sends it to the PBX only, and it may be empty.
    pub number: String,
    /// The display name. Any text is allowed.
    pub display_name: Option<String>,
    /// The number is withheld: `From` is anonymous, and only `P-Asserted-Identity` has the number, with `Privacy: id`
    /// (RFC 3325).
    pub withheld: bool,
    /// The number in a header of this trunk, with its country code.
    pub in_header: Option<String>,
}

/// The header of [`Caller::in_header`].
pub const CALLER_HEADER: &str = "X-Caller-E164";

impl Caller {
    /// A caller with a number and no name.
    pub fn number(number: &str) -> Self {
        Self {
            number: number.to_owned(),
            display_name: None,
            withheld: false,
            in_header: None,
        }
    }

    /// Adds the number in the header [`CALLER_HEADER`].
    pub fn in_header(self, value: &str) -> Self {
        Self {
            in_header: Some(value.to_owned()),
            ..self
        }
    }

    /// A caller without a number, also for the PBX.
    pub fn withheld() -> Self {
        Self {
            withheld: true,
            ..Self::number("")
        }
    }

    /// Adds a display name.
    pub fn named(self, display_name: &str) -> Self {
        Self {
            display_name: Some(display_name.to_owned()),
            ..self
        }
    }

    pub(crate) fn uri(&self, agent: &Agent) -> Result<Uri, Error> {
        if self.withheld {
            let anonymous = "sip:anonymous@anonymous.invalid";
            return Uri::try_from(anonymous).map_err(|_| Error::Address(anonymous.to_owned()));
        }
        agent.uri(&self.number)
    }

    pub(crate) fn quoted_name(&self) -> Option<String> {
        if self.withheld {
            return Some("Anonymous".to_owned());
        }
        self.display_name.as_deref().map(quoted)
    }

    pub(crate) fn headers(&self, agent: &Agent) -> Result<Vec<Header>, Error> {
        let in_header = self.in_header.iter();
        let mut headers: Vec<Header> = in_header
            .map(|value| Header::Other(CALLER_HEADER.into(), value.clone()))
            .collect();
        if !self.withheld {
            return Ok(headers);
        }
        headers.push(Header::Other("Privacy".into(), "id".into()));
        if !self.number.is_empty() {
            let asserted = format!("<{}>", agent.uri(&self.number)?);
            headers.push(Header::Other("P-Asserted-Identity".into(), asserted));
        }
        Ok(headers)
    }

    /// Parses the caller from a `From` header.
    pub(crate) fn from_header(header: &str) -> Result<Self, Error> {
        let (display_name, address) = split_name(header);
        let from = typed::From::parse(address).map_err(|_| Error::Address(header.to_owned()))?;
        let number = from.uri.auth.map(|auth| auth.user).unwrap_or_default();
        Ok(Self {
            withheld: number.is_empty() || number.eq_ignore_ascii_case("anonymous"),
            number,
            display_name: display_name.or(from.display_name),
            in_header: None,
        })
    }
}

/// Splits a quoted display name off the front. The SIP stack's own parser fails on a name with escaped quotes or angle
/// brackets.
fn split_name(header: &str) -> (Option<String>, &str) {
    let Some(quoted) = header.trim_start().strip_prefix('"') else {
        return (None, header);
    };
    let mut name = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (Some(name), &quoted[at + 1..]),
            '\\' => name.extend(characters.next().map(|(_, escaped)| escaped)),
            plain => name.push(plain),
        }
    }
    (None, header)
}

/// Escapes text for a SIP quoted string, and drops control characters.
fn quoted(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    printable
        .flat_map(|c| {
            matches!(c, '"' | '\\')
                .then_some('\\')
                .into_iter()
                .chain([c])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_break_out_of_its_quotes() {
        assert_eq!(quoted(r#"O"Neil \ 😀"#), r#"O\"Neil \\ 😀"#);
        assert_eq!(quoted("a\r\nVia: b"), "aVia: b");
    }

    #[test]
    fn any_name_can_be_written_and_parsed() -> Result<(), Error> {
        for name in ["Asha", r#"O"Neil \"#, "<sip:a@b>, (x); 😀", ""] {
            let header = format!("\"{}\" <sip:+91900@10.0.0.1>;tag=a", quoted(name));
            let expected = Caller::number("+91900").named(name);
            assert_eq!(Caller::from_header(&header)?, expected);
        }
        let nameless = Caller::from_header("<sip:+91900@10.0.0.1>;tag=a")?;
        assert_eq!(nameless, Caller::number("+91900"));
        Ok(())
    }
}
