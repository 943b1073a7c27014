//! What commands print: results on stdout, for people or as JSON, and everything else on stderr.

use std::io::{IsTerminal, Write};

use serde_json::{Value, json};

use crate::failure::{Failure, Result};

/// How results are printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    /// The arguments that name the deployment.
    target: &'static [String],
}

impl Output {
    /// `json`: the user has passed `--json`. `target`: see [`Target::arguments`](crate::deployment::Target::arguments).
    pub(crate) const fn new(json: bool, target: &'static [String]) -> Self {
        Self { json, target }
    }

    /// Prints a result: the JSON document with `--json`, otherwise the text.
    pub(crate) fn print(self, document: &Value, text: &str) -> Result<()> {
        match self.json {
            true => write_line(&self.aim_all(document).to_string()),
            false => write_line(&self.aim(text)),
        }
    }

    /// Prints rows in columns. The heading is only for a terminal, because a script would have to skip it.
    pub(crate) fn print_table<const N: usize>(
        self,
        document: &Value,
        heading: [&str; N],
        rows: Vec<[String; N]>,
    ) -> Result<()> {
        if self.json {
            return write_line(&document.to_string());
        }
        let heading = std::io::stdout().is_terminal().then_some(heading);
        let heading = heading.map(|names| names.map(str::to_owned));
        match columns(heading.into_iter().chain(rows).collect()) {
            text if text.is_empty() => Ok(()),
            text => write_line(&text),
        }
    }

    /// Prints a remark for people.
    pub(crate) fn note(self, text: &str) {
        remark(&self.aim(text));
    }

    /// Prints why the command failed.
    pub(crate) fn fail(self, failure: &Failure) {
        let text = self.aim(&failure.to_string());
        if self.json {
            let mut error = json!({ "error": text, "exit_code": failure.number() });
            if let Some(step) = failure.step() {
                error["step"] = step.into();
            }
            remark(&error.to_string());
        } else {
            remark(&format!("error: {text}"));
        }
    }

    /// Adds the target to each command of Ringback in a text (`` `ringback … ` ``). A reader pastes such a command, and it must not change
    /// another deployment.
    fn aim(self, text: &str) -> String {
        let aimed = text.split('`').enumerate().map(|(index, part)| {
            let command = part
                .split_once("ringback ")
                .filter(|(before, _)| index > 0 && (before.is_empty() || before.ends_with("| ")));
            let Some((before, rest)) = command else {
                return part.to_owned();
            };
            // A command for another region names it itself.
            let is_new = |argument: &&String| {
                let name = argument.split(' ').next().unwrap_or_default();
                !rest.contains(name)
            };
            let target = self.target.iter().filter(is_new);
            let target: String = target.map(|argument| format!("{argument} ")).collect();
            format!("{before}ringback {target}{rest}")
        });
        aimed.collect::<Vec<_>>().join("`")
    }

    /// The same for all texts of a document.
    fn aim_all(self, document: &Value) -> Value {
        match document {
            Value::String(text) => self.aim(text).into(),
            Value::Array(items) => items.iter().map(|item| self.aim_all(item)).collect(),
            Value::Object(fields) => {
                let fields = fields.iter();
                let aimed = fields.map(|(name, value)| (name.clone(), self.aim_all(value)));
                aimed.collect()
            }
            other => other.clone(),
        }
    }
}

/// The rows with all columns but the last one padded.
pub(crate) fn columns<const N: usize>(rows: Vec<[String; N]>) -> String {
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths);
        let cells = cells.map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn write_line(line: &str) -> Result<()> {
    write(format!("{line}\n").as_bytes())
}

/// Writes to stdout. A reader that has seen enough (`| head`) ends the command, and that is no failure.
pub(crate) fn write(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::not_reachable(format!(
            "The output cannot be written: {error}."
        ))),
    }
}

/// Writes a line to stderr. The command continues if the reader is gone (`2>&1 | head`), because it may have done half of a change.
fn remark(line: &str) {
    let _nobody_reads_it = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_in_a_text_is_for_the_same_deployment() {
        let target = ["--local", "--region ap-south-1"].map(str::to_owned);
        let output = Output::new(true, Vec::from(target).leak());
        for (text, expected) in [
            (
                "`ringback doctor` of ringback `x`",
                "`ringback --local --region ap-south-1 doctor` of ringback `x`",
            ),
            (
                "`echo 1 | ringback secret set fcm`",
                "`echo 1 | ringback --local --region ap-south-1 secret set fcm`",
            ),
            (
                "`ringback doctor --region ap-southeast-1`",
                "`ringback --local doctor --region ap-southeast-1`",
            ),
        ] {
            assert_eq!(output.aim(text), expected);
            let document = output.aim_all(&json!({ "findings": [{ "fix": text }], "code": 1 }));
            assert_eq!(
                document,
                json!({ "findings": [{ "fix": expected }], "code": 1 })
            );
            assert_eq!(Output::new(true, &[]).aim(text), text);
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            ["+918047491899".to_owned(), "1001".to_owned()],
            ["1909".to_owned(), "अ".to_owned()],
        ];
        assert_eq!(columns(rows), "+918047491899  1001\n1909           अ");
        assert_eq!(columns::<2>(vec![]), "");
    }
}
