//! `samconfig.toml`: sets values of an environment, and leaves comments, order and all other values as they are.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use similar::TextDiff;
use toml_edit::{Array, DocumentMut, Item, Value};

use crate::failure::{Failure, Result};

/// The values of the examples, which no deployment has.
const PLACEHOLDER: &str = "example.com";

/// The environment of the first stack, which a file may lack.
pub(super) const FIRST: &str = "primary";
/// The environment of the second stack.
pub(super) const SECOND: &str = "fallback";

/// The file.
pub(super) struct SamConfig {
    path: PathBuf,
    before: String,
    document: DocumentMut,
}

impl SamConfig {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let before = fs::read_to_string(path).map_err(|error| {
            Failure::wrong_use(format!(
                "{} cannot be read: {error}. Run the command in the folder of samconfig.toml, or name the file with --config-file.",
                path.display()
            ))
        })?;
        Self::parse(path, before)
    }

    fn parse(path: &Path, before: String) -> Result<Self> {
        let document: DocumentMut = before.parse().map_err(|error| {
            Failure::wrong_use(format!("{} is not valid: {error}", path.display()))
        })?;
        if !has(&document, SECOND) {
            return Err(Failure::wrong_use(format!(
                "{} has no [{SECOND}.deploy.parameters]: copy the parts of {SECOND} from the samconfig.toml of this version.",
                path.display()
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            before,
            document,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the stack and the parameters of an environment, if the file has it. `shared` values only replace placeholders, because the
    /// file may have another value on purpose.
    pub(super) fn set(
        &mut self,
        environment: &str,
        stack: &str,
        region: &str,
        own: &[(&str, &str)],
        shared: &BTreeMap<&str, &str>,
    ) -> Result<()> {
        if !has(&self.document, environment) {
            return Ok(());
        }
        let commands = &mut self.document[environment];
        for (name, value) in [("stack_name", stack), ("region", region)] {
            let global = commands.get("global").and_then(|it| it.get("parameters"));
            let is_global = global.is_some_and(|parameters| parameters.get(name).is_some());
            let command = if is_global { "global" } else { "deploy" };
            set_text(&mut commands[command]["parameters"][name], value);
        }
        let list = &mut commands["deploy"]["parameters"]["parameter_overrides"];
        let list = list.or_insert(Item::Value(Value::Array(Array::new())));
        let list = list.as_array_mut().ok_or_else(|| {
            Failure::wrong_use(format!(
                "In {}, parameter_overrides of [{environment}.deploy.parameters] must be a list of texts \"NAME=VALUE\".",
                self.path.display()
            ))
        })?;
        for (name, value) in own {
            set_parameter(list, name, value, |_| true);
        }
        for (name, value) in shared {
            set_parameter(list, name, value, |before| before.contains(PLACEHOLDER));
        }
        Ok(())
    }

    /// The changed lines. `None`: nothing has changed.
    pub(super) fn diff(&self) -> Option<String> {
        let after = self.document.to_string();
        let diff = TextDiff::from_lines(&self.before, &after);
        (self.before != after).then(|| diff.unified_diff().context_radius(1).to_string())
    }

    /// Writes the file, whole or not at all.
    pub(super) fn write(&self) -> Result<()> {
        let new = self.path.with_extension("toml.new");
        let written =
            fs::write(&new, self.document.to_string()).and_then(|()| fs::rename(&new, &self.path));
        written.map_err(|error| {
            Failure::refused(format!(
                "{} cannot be written: {error}.",
                self.path.display()
            ))
        })
    }
}

fn has(document: &DocumentMut, environment: &str) -> bool {
    let deploy = document.get(environment).and_then(|it| it.get("deploy"));
    let parameters = deploy.and_then(|it| it.get("parameters"));
    parameters.is_some_and(Item::is_table_like)
}

/// Sets a text, and keeps the comment behind it.
fn set_text(item: &mut Item, text: &str) {
    match item.as_value_mut() {
        Some(value) => replace(value, text),
        None => *item = toml_edit::value(text),
    }
}

fn replace(value: &mut Value, text: &str) {
    if value.as_str() != Some(text) {
        let decor = value.decor().clone();
        *value = Value::from(text);
        *value.decor_mut() = decor;
    }
}

/// Sets a parameter in the list, or adds it. One that is there is replaced only if `is_replaced` says so of its value.
fn set_parameter(list: &mut Array, name: &str, value: &str, is_replaced: impl Fn(&str) -> bool) {
    let pair = match value.contains(char::is_whitespace) {
        true => format!("{name}=\"{value}\""),
        false => format!("{name}={value}"),
    };
    for item in list.iter_mut() {
        let text = item.as_str().unwrap_or_default();
        if let Some((_, before)) = text.split_once('=').filter(|(key, _)| *key == name) {
            if is_replaced(before) {
                replace(item, &pair);
            }
            return;
        }
    }
    let mut item = Value::from(pair);
    item.decor_mut().set_prefix("\n    ");
    list.push_formatted(item);
    list.set_trailing_comma(true);
    let after = list.trailing().as_str().unwrap_or_default();
    if !after.contains('\n') {
        list.set_trailing("\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMCONFIG: &str = include_str!("../../../samconfig.toml");

    fn parsed(text: &str) -> SamConfig {
        SamConfig::parse(Path::new("samconfig.toml"), text.to_owned()).unwrap()
    }

    /// Sets the values of a second region in Hyderabad.
    fn with_values(text: &str, ari: &str) -> Result<SamConfig> {
        let mut file = parsed(text);
        let shared = BTreeMap::from([("AriUrl", ari), ("LogLevel", "debug")]);
        let own = [("OtherRegion", "ap-south-2")];
        file.set(FIRST, "calls", "ap-south-1", &own, &shared)?;
        let own = [
            ("OtherRegion", "ap-south-1"),
            ("ExistingTableName", "calls-1"),
        ];
        file.set(SECOND, "calls", "ap-south-2", &own, &shared)?;
        Ok(file)
    }

    #[test]
    fn only_the_lines_of_these_values_change_and_a_second_run_changes_nothing() {
        let file = with_values(SAMCONFIG, "https://pbx.acme.in/ari").unwrap();
        let diff = file.diff().unwrap();
        let changed = diff.lines().filter(|line| line.starts_with(['+', '-']));
        let changed: Vec<&str> = changed.collect();
        assert_eq!(
            changed,
            [
                r#"-stack_name = "ringback""#,
                r#"+stack_name = "calls""#,
                r#"-    "AriUrl=https://pbx.example.com:8089/ari","#,
                r#"+    "AriUrl=https://pbx.acme.in/ari","#,
                r#"-    "OtherRegion=ap-southeast-1","#,
                r#"+    "OtherRegion=ap-south-2","#,
                r#"+    "LogLevel=debug","#,
                r#"-stack_name = "ringback""#,
                r#"+stack_name = "calls""#,
                r#"-region = "ap-southeast-1""#,
                r#"+region = "ap-south-2""#,
                r#"-    "AriUrl=https://pbx.example.com:8089/ari","#,
                r#"+    "AriUrl=https://pbx.acme.in/ari","#,
                r#"-    "ExistingTableName=TABLE","#,
                r#"+    "ExistingTableName=calls-1","#,
                r#"+    "LogLevel=debug","#,
            ]
        );
        let after = file.document.to_string();
        let again = with_values(&after, "https://pbx.acme.in/ari").unwrap();
        assert_eq!(again.diff(), None);
        let other = with_values(&after, "https://other.acme.in/ari").unwrap();
        assert_eq!(other.diff(), None, "the person's own value has changed");
    }

    #[test]
    fn a_short_file_is_completed_and_an_unfit_one_refused() {
        let short = "[fallback.deploy.parameters]\nparameter_overrides = [\"LogLevel=info\"]\n";
        let text = with_values(short, "a b").unwrap().document.to_string();
        let expected = r#"[fallback.deploy.parameters]
parameter_overrides = ["LogLevel=info",
    "OtherRegion=ap-south-1",
    "ExistingTableName=calls-1",
    "AriUrl=\"a b\"",
]
stack_name = "calls"
region = "ap-south-2"
"#;
        let expected = expected.replace(r#""AriUrl=\"a b\"""#, r#"'AriUrl="a b"'"#);
        assert_eq!(text, expected);
        let refused = |text: &str| {
            let file = SamConfig::parse(Path::new("samconfig.toml"), text.to_owned());
            let failure = file.and_then(|_| with_values(text, "a")).err().unwrap();
            failure.to_string()
        };
        assert!(refused("[fallback").contains("not valid"));
        assert!(refused("[default.deploy.parameters]").contains("no [fallback.deploy"));
        let one_text = "[fallback.deploy.parameters]\nparameter_overrides = \"A=b\"";
        assert!(refused(one_text).contains("must be a list"));
    }
}
