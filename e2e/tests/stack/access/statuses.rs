//! A table of status codes: actual ones compared with expected ones.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::{Result, ensure};

pub(crate) struct StatusTable {
    text: String,
    columns: Vec<&'static str>,
    wrong: Vec<String>,
}

impl StatusTable {
    pub(crate) fn titled(title: &str, columns: &[&'static str]) -> Self {
        let mut text = format!("\n{title}\n\n{:<36}", "who");
        for column in columns {
            let _ = write!(text, "{column:>20}");
        }
        Self {
            text,
            columns: columns.to_vec(),
            wrong: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, who: &str, expected: &[u16], found: &[u16]) {
        let _ = write!(self.text, "\n{who:<36}");
        for ((column, expected), found) in self.columns.iter().zip(expected).zip(found) {
            let _ = write!(self.text, "{found:>20}");
            if expected != found {
                let wrong = format!("{who}, {column}: {found}, expected {expected}");
                self.wrong.push(wrong);
            }
        }
    }

    /// Prints the table. Fails if a status differs from the expected one.
    pub(crate) fn check(self) -> Result<()> {
        let text = self.text + "\n\n";
        std::io::stdout().write_all(text.as_bytes())?;
        ensure!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
        Ok(())
    }
}
