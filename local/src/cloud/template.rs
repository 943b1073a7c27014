//! Reads parameters and functions from `template.yaml`, and writes the copy to deploy. The copy differs only in
//! `CodeUri`, as after `sam build`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The text of `template.yaml`.
#[derive(Debug)]
pub struct Template {
    text: String,
}

impl Template {
    /// Reads the template.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("could not read {}", path.display()))?;
        Ok(Self { text })
    }

    /// The names of the functions' executables.
    pub fn binaries(&self) -> Vec<String> {
        self.text
            .lines()
            .filter_map(|line| value_of(line, "Binary"))
            .map(str::to_owned)
            .collect()
    }

    /// The names of the parameters.
    pub fn parameters(&self) -> Vec<String> {
        self.text
            .lines()
            .skip_while(|line| *line != "Parameters:")
            .skip(1)
            .take_while(|line| line.is_empty() || line.starts_with([' ', '#']))
            .filter_map(|line| line.strip_prefix("  ")?.strip_suffix(':'))
            .filter(|name| name.starts_with(|letter: char| letter.is_ascii_alphabetic()))
            .map(str::to_owned)
            .collect()
    }

    /// The template with the `CodeUri` of each function set to its archive.
    pub fn with_builds(&self, archive: impl Fn(&str) -> PathBuf) -> Result<String> {
        let mut binary = None;
        let mut replaced = 0;
        let mut lines = Vec::new();
        for line in self.text.lines() {
            binary = value_of(line, "Binary").or(binary);
            let is_code = value_of(line, "CodeUri").is_some();
            match binary.filter(|_| is_code) {
                Some(name) => {
                    let indent = &line[..line.len() - line.trim_start().len()];
                    lines.push(format!("{indent}CodeUri: {}", archive(name).display()));
                    binary = None;
                    replaced += 1;
                }
                None => lines.push(line.to_owned()),
            }
        }
        let functions = self.binaries().len();
        ensure!(
            functions == replaced,
            "{functions} functions have a Binary, but only {replaced} have a CodeUri after it"
        );
        Ok(lines.join("\n") + "\n")
    }
}

fn value_of<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    Some(
        line.trim_start()
            .strip_prefix(key)?
            .strip_prefix(':')?
            .trim(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Parameters:
  AriUrl:
    Type: String
  # A comment.

  RingTimeoutSeconds:
    Default: 30
Resources:
  HealthFunction:
    Type: AWS::Serverless::Function
    Metadata:
      BuildMethod: rust-cargolambda
      BuildProperties:
        Binary: health
    Properties:
      CodeUri: .
      Timeout: 5
";

    fn archive(binary: &str) -> PathBuf {
        PathBuf::from(format!("/t/{binary}.zip"))
    }

    fn template() -> Template {
        Template {
            text: TEXT.to_owned(),
        }
    }

    #[test]
    fn parameters_and_binaries_are_read_from_the_template() {
        assert_eq!(template().parameters(), ["AriUrl", "RingTimeoutSeconds"]);
        assert_eq!(template().binaries(), ["health"]);
    }

    #[test]
    fn the_deployed_copy_differs_only_in_the_code_uri() {
        let deployed = template().with_builds(archive).unwrap();
        assert_eq!(
            deployed,
            TEXT.replace("CodeUri: .", "CodeUri: /t/health.zip")
        );
    }

    #[test]
    fn a_function_without_a_code_uri_is_an_error() {
        let template = Template {
            text: TEXT.replace("      CodeUri: .\n", ""),
        };
        assert!(template.with_builds(archive).is_err());
    }
}
