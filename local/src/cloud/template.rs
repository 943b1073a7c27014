//! Reads the parameters and functions of `template.yaml`, and writes a copy for the deployment in which each function's
//! `CodeUri` is its archive, as `sam build` would write it, and the CORS configuration has the names of API Gateway's own API.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The properties of `CorsConfiguration`. The emulator does not translate them from CloudFormation's names to those of API
/// Gateway's API (`allowOrigins`), which it reads.
const CORS_PROPERTIES: [&str; 4] = ["AllowOrigins", "AllowMethods", "AllowHeaders", "MaxAge"];

/// The text of `template.yaml`.
#[derive(Debug)]
pub struct Template {
    text: String,
}

impl Template {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("could not read {}", path.display()))?;
        Ok(Self { text })
    }

    /// The names of the functions' executables.
    pub fn binaries(&self) -> Vec<String> {
        self.text
            .lines()
            .filter_map(binary)
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

    /// The template with each function's archive as its `CodeUri`, which takes precedence over that of `Globals`, and with
    /// [`CORS_PROPERTIES`] as the emulator reads them.
    pub fn with_builds(&self, archive: impl Fn(&str) -> PathBuf) -> Result<String> {
        let mut function = None;
        let mut added = 0;
        let mut lines = Vec::new();
        for line in self.text.lines() {
            function = binary(line).or(function);
            lines.push(as_emulator_reads(line));
            if line.trim() == "Properties:"
                && let Some(name) = function.take()
            {
                lines.push(format!("      CodeUri: {}", archive(name).display()));
                added += 1;
            }
        }
        let functions = self.binaries().len();
        ensure!(
            functions == added,
            "{functions} functions name a Binary, but only {added} have Properties after it"
        );
        Ok(lines.join("\n") + "\n")
    }
}

fn as_emulator_reads(line: &str) -> String {
    let property = line.trim_start().trim_start_matches("- ");
    let is_cors = |name: &&&str| {
        let rest = property.strip_prefix(**name);
        rest.is_some_and(|rest| rest.starts_with(':'))
    };
    match CORS_PROPERTIES.iter().find(is_cors) {
        Some(name) => {
            let (first, rest) = name.split_at(1);
            line.replacen(name, &(first.to_lowercase() + rest), 1)
        }
        None => line.to_owned(),
    }
}

/// The executable that a line of a function's metadata names.
fn binary(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix("BuildProperties: { Binary: ")?;
    name.strip_suffix(" }")
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
      BuildProperties: { Binary: health }
    Properties:
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
    fn parameters_and_binaries_are_found() {
        assert_eq!(template().parameters(), ["AriUrl", "RingTimeoutSeconds"]);
        assert_eq!(template().binaries(), ["health"]);
    }

    #[test]
    fn only_the_code_uri_is_added() {
        let deployed = template().with_builds(archive).unwrap();
        let properties = "    Properties:\n";
        let expected = format!("{properties}      CodeUri: /t/health.zip\n");
        assert_eq!(deployed, TEXT.replace(properties, &expected));
    }

    #[test]
    fn the_cors_configuration_has_the_names_of_the_api() {
        let read = [
            (
                "        - AllowOrigins: !Split [x]",
                "        - allowOrigins: !Split [x]",
            ),
            ("          MaxAge: 7200", "          maxAge: 7200"),
            ("  AllowOriginsOfPages: x", "  AllowOriginsOfPages: x"),
        ];
        for (line, expected) in read {
            assert_eq!(as_emulator_reads(line), expected);
        }
    }

    #[test]
    fn a_function_without_properties_is_an_error() {
        let template = Template {
            text: TEXT.replace("    Properties:\n", ""),
        };
        assert!(template.with_builds(archive).is_err());
    }
}
