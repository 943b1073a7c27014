//! Reads `template.yaml`, and writes it as one JSON document for a deployment: without YAML's anchors, in CloudFormation's long
//! form (`{"Ref": …}`), and with an archive as the `CodeUri` of each function, as `sam build` would write it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

/// The name of the written document. The SAM CLI finds it by this name.
pub const EXPANDED: &str = "template.json";

/// The properties of `CorsConfiguration`. The emulator does not translate them from CloudFormation's names to those of API
/// Gateway's API (`allowOrigins`), which it reads.
const CORS_PROPERTIES: [&str; 4] = ["AllowOrigins", "AllowMethods", "AllowHeaders", "MaxAge"];

/// A template in CloudFormation's long form.
#[derive(Debug, Clone)]
pub struct Template(Value);

impl Template {
    /// Reads a file in YAML or JSON.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("could not read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("could not parse {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut yaml: yaml_serde::Value = yaml_serde::from_str(text)?;
        yaml.apply_merge()?;
        Ok(Self(long_form(yaml)?))
    }

    /// The whole document.
    pub fn into_value(self) -> Value {
        self.0
    }

    /// The logical ids of the functions, by the names of their executables.
    pub fn functions(&self) -> BTreeMap<String, String> {
        let resources = self.0["Resources"].as_object().into_iter().flatten();
        resources
            .filter_map(|(id, resource)| Some((binary(resource)?.to_owned(), id.clone())))
            .collect()
    }

    /// The names of the functions' executables.
    pub fn binaries(&self) -> Vec<String> {
        self.functions().into_keys().collect()
    }

    /// The names of the parameters.
    pub fn parameters(&self) -> Vec<String> {
        let parameters = self.0["Parameters"].as_object().into_iter();
        parameters.flat_map(Map::keys).cloned().collect()
    }

    /// The template with built functions: each has its archive as `CodeUri`, and no build method.
    #[must_use]
    pub fn with_builds(mut self, archive: impl Fn(&str) -> PathBuf) -> Self {
        if let Some(defaults) = self.0["Globals"]["Function"].as_object_mut() {
            defaults.remove("CodeUri");
        }
        let resources = self.0["Resources"].as_object_mut();
        for (_, resource) in resources.into_iter().flatten() {
            let Some(archive) = binary(resource).map(&archive) else {
                continue;
            };
            resource["Properties"]["CodeUri"] = json!(archive);
            if let Some(metadata) = resource["Metadata"].as_object_mut() {
                metadata.remove("BuildMethod");
            }
        }
        self
    }

    /// The template for functions of one architecture only.
    #[must_use]
    pub fn for_architecture(mut self, name: &str) -> Self {
        let parameter = &mut self.0["Parameters"]["Architecture"];
        parameter["Default"] = json!(name);
        parameter["AllowedValues"] = json!([name]);
        self
    }

    /// The template with an empty environment variable of all functions. The SAM CLI sets declared variables only.
    #[must_use]
    pub fn with_variable(mut self, name: &str) -> Self {
        self.0["Globals"]["Function"]["Environment"]["Variables"][name] = json!("");
        self
    }

    /// The template with [`CORS_PROPERTIES`] as the emulator reads them.
    #[must_use]
    pub fn for_emulator(mut self) -> Self {
        rename_cors_properties(&mut self.0);
        self
    }

    /// Writes the document.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.0)? + "\n";
        std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
    }
}

/// The executable that a function's metadata names.
fn binary(resource: &Value) -> Option<&str> {
    resource["Metadata"]["BuildProperties"]["Binary"].as_str()
}

fn rename_cors_properties(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for name in CORS_PROPERTIES {
                if let Some(value) = object.remove(name) {
                    let (first, rest) = name.split_at(1);
                    object.insert(first.to_lowercase() + rest, value);
                }
            }
            object.values_mut().for_each(rename_cors_properties);
        }
        Value::Array(values) => values.iter_mut().for_each(rename_cors_properties),
        _ => {}
    }
}

fn long_form(yaml: yaml_serde::Value) -> Result<Value> {
    use yaml_serde::Value as Yaml;
    Ok(match yaml {
        Yaml::Tagged(tagged) => {
            let (name, value) = (tagged.tag.to_string(), long_form(tagged.value)?);
            match (name.trim_start_matches('!'), value) {
                ("Ref", value) => json!({ "Ref": value }),
                ("Condition", value) => json!({ "Condition": value }),
                ("GetAtt", Value::String(path)) => {
                    let (id, attribute) = path
                        .split_once('.')
                        .with_context(|| format!("!GetAtt {path}"))?;
                    json!({ "Fn::GetAtt": [id, attribute] })
                }
                (name, value) => json!({ (format!("Fn::{name}")): value }),
            }
        }
        Yaml::Mapping(mapping) => {
            let mut object = Map::new();
            for (key, value) in mapping {
                let Yaml::String(key) = key else {
                    bail!("not a text key: {key:?}")
                };
                object.insert(key, long_form(value)?);
            }
            Value::Object(object)
        }
        Yaml::Sequence(values) => {
            Value::Array(values.into_iter().map(long_form).collect::<Result<_>>()?)
        }
        scalar => serde_json::to_value(scalar)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Parameters:
  AriUrl: { Type: String }
  Architecture: { Default: arm64, AllowedValues: [arm64, x86_64] }
Globals:
  Function: { CodeUri: ., Timeout: 10 }
Resources:
  HealthFunction:
    Metadata:
      BuildMethod: rust-cargolambda
      BuildProperties: { Binary: health }
    Properties:
      Environment:
        <<: &Shared { TABLE: !Ref Table }
        OTHER: !GetAtt Queue.Arn
  Api:
    Properties: { Cors: !If [HasOrigins, { AllowOrigins: [x], MaxAge: 7200 }, !Ref AWS::NoValue] }
";

    fn template() -> Template {
        Template::parse(TEXT).unwrap()
    }

    #[test]
    fn parameters_and_binaries_are_found() {
        assert_eq!(template().parameters(), ["Architecture", "AriUrl"]);
        assert_eq!(template().binaries(), ["health"]);
    }

    #[test]
    fn a_built_function_has_its_archive_and_no_build_method() {
        let built = template()
            .with_builds(|binary| PathBuf::from(format!("functions/{binary}.zip")))
            .into_value();
        let function = &built["Resources"]["HealthFunction"];
        assert_eq!(function["Properties"]["CodeUri"], "functions/health.zip");
        assert_eq!(
            function["Metadata"],
            json!({ "BuildProperties": { "Binary": "health" } })
        );
        assert_eq!(
            function["Properties"]["Environment"],
            json!({ "TABLE": { "Ref": "Table" }, "OTHER": { "Fn::GetAtt": ["Queue", "Arn"] } })
        );
        assert_eq!(built["Globals"]["Function"], json!({ "Timeout": 10 }));
    }

    #[test]
    fn only_the_built_architecture_can_be_chosen() {
        let template = template().for_architecture("x86_64").into_value();
        assert_eq!(
            template["Parameters"]["Architecture"],
            json!({ "Default": "x86_64", "AllowedValues": ["x86_64"] })
        );
    }

    #[test]
    fn the_cors_configuration_has_the_names_of_the_api() {
        let template = template().for_emulator().into_value();
        assert_eq!(
            template["Resources"]["Api"]["Properties"]["Cors"]["Fn::If"][1],
            json!({ "allowOrigins": ["x"], "maxAge": 7200 })
        );
    }
}
