//! Reads `template.yaml` as CloudFormation does for a deployment with given parameters.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use regex::Regex;
use serde_json::{Map, Value, json};

/// The template in CloudFormation's long form (`{"Ref": …}`), with `Globals` added to the functions and without the parts
/// that its conditions exclude.
pub struct Template(Value);

impl Template {
    /// The deployment with all parameters at their defaults: in one region, at the API's own address.
    pub fn load(repository: &Path) -> Result<Self> {
        Self::deployed_with(repository, &[])
    }

    /// The deployment with these parameters, the others at their defaults.
    pub fn deployed_with(repository: &Path, parameters: &[(&str, &str)]) -> Result<Self> {
        let template = read(repository)?;
        let decided = Conditions::of(template, parameters)?.decide(template)?;
        Ok(Self(decided.context("the template is empty")?))
    }

    /// Why CloudFormation refuses these parameters before it creates anything: their constraints, and the template's rules.
    pub fn refusals(repository: &Path, parameters: &[(&str, &str)]) -> Result<Vec<String>> {
        let template = read(repository)?;
        let conditions = Conditions::of(template, parameters)?;
        let mut refusals = Vec::new();
        for (name, value) in parameters {
            let parameter = &template["Parameters"][name];
            let pattern = parameter["AllowedPattern"].as_str().unwrap_or_default();
            let allowed = parameter["AllowedValues"].as_array();
            let is_allowed = allowed.is_none_or(|values| values.contains(&json!(value)));
            if !is_allowed || !Regex::new(pattern)?.is_match(value) {
                refusals.push(format!("{name} must not be {value:?}"));
            }
        }
        for (_, rule) in template["Rules"].as_object().into_iter().flatten() {
            let applies = &rule["RuleCondition"];
            if !applies.is_null() && !conditions.is_true(applies)? {
                continue;
            }
            for assertion in each(&rule["Assertions"]) {
                if !conditions.is_true(&assertion["Assert"])? {
                    refusals.extend(text(&assertion["AssertDescription"]));
                }
            }
        }
        Ok(refusals)
    }

    /// A value of the template's mappings.
    pub fn mapped(&self, mapping: &str, key: &str, name: &str) -> &Value {
        &self.0["Mappings"][mapping][key][name]
    }

    /// The properties of every resource of one type, by logical id.
    pub fn resources<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.0["Resources"]
            .as_object()
            .into_iter()
            .flatten()
            .filter(move |(_, resource)| resource["Type"] == kind)
            .map(|(id, resource)| (id.as_str(), &resource["Properties"]))
    }

    /// The parameters by name.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0["Parameters"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, parameter)| (name.as_str(), parameter))
    }

    /// The value of an output.
    pub fn output(&self, name: &str) -> &Value {
        &self.0["Outputs"][name]["Value"]
    }

    /// A resource by logical id.
    pub fn resource(&self, id: &str) -> &Value {
        &self.0["Resources"][id]
    }

    /// The logical ids of all resources.
    pub fn ids(&self) -> BTreeSet<&str> {
        let resources = self.0["Resources"].as_object().into_iter().flatten();
        resources.map(|(id, _)| id.as_str()).collect()
    }

    /// The type of the resource with this id, or of the table of another stack.
    fn kind(&self, id: &str) -> Option<&str> {
        match id {
            EXISTING_TABLE => Some("AWS::DynamoDB::GlobalTable"),
            id => self.resource(id)["Type"].as_str(),
        }
    }

    /// The functions, by the name of their binary.
    pub fn functions(&self) -> BTreeMap<&str, Function<'_>> {
        self.resources("AWS::Serverless::Function")
            .filter_map(|(id, properties)| {
                let name = self.resource(id)["Metadata"]["BuildProperties"]["Binary"].as_str()?;
                Some((
                    name,
                    Function {
                        template: self,
                        id,
                        properties,
                    },
                ))
            })
            .collect()
    }

    /// The function that a route invokes through its integration.
    pub fn function_behind(&self, route: &Value) -> Option<&str> {
        let integration = self.integration_of(route)?;
        self.function_at(&self.resource(integration)["Properties"]["IntegrationUri"])
    }

    /// The function at a URI: its ARN, or for a WebSocket API the ARN of its invocation.
    pub fn function_at(&self, address: &Value) -> Option<&str> {
        let function = referred(address).or_else(|| {
            let path = address["Fn::Sub"].as_str()?;
            path.split_once("functions/${")?
                .1
                .strip_suffix(".Arn}/invocations")
        })?;
        self.resource(function)["Metadata"]["BuildProperties"]["Binary"].as_str()
    }

    fn integration_of<'a>(&self, route: &'a Value) -> Option<&'a str> {
        route["Target"]["Fn::Sub"]
            .as_str()?
            .strip_prefix("integrations/${")?
            .strip_suffix('}')
    }

    /// Whether the Scheduler may invoke a function.
    pub fn may_be_scheduled(&self, function: &str) -> bool {
        let name = as_written(&self.resource(function)["Properties"]["FunctionName"]);
        let statements = self.statements().into_iter();
        statements
            .filter(|(holder, _)| *holder == "SchedulerRole")
            .flat_map(|(_, statement)| each(&statement["Resource"]).map(as_written))
            .any(|resource| resource.ends_with(&format!(":function:{name}")))
    }

    /// The statements of all policies, each with the id of its role or managed policy.
    pub fn statements(&self) -> Vec<(&str, &Value)> {
        let roles = self.resources("AWS::IAM::Role").flat_map(|(id, role)| {
            role["Policies"]
                .as_array()
                .into_iter()
                .flatten()
                .map(move |policy| (id, &policy["PolicyDocument"]))
        });
        let shared = self
            .resources("AWS::IAM::ManagedPolicy")
            .map(|(id, policy)| (id, &policy["PolicyDocument"]));
        roles
            .chain(shared)
            .flat_map(|(id, document)| each(&document["Statement"]).map(move |one| (id, one)))
            .collect()
    }
}

/// One function.
pub struct Function<'a> {
    template: &'a Template,
    /// The logical id.
    pub id: &'a str,
    /// The properties of its resource.
    pub properties: &'a Value,
}

impl<'a> Function<'a> {
    /// The environment variables by name.
    pub fn environment(&self) -> BTreeMap<&'a str, &'a Value> {
        self.properties["Environment"]["Variables"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.as_str(), value))
            .collect()
    }

    /// The timeout in seconds, its own or the global one.
    pub fn timeout_seconds(&self) -> u64 {
        self.properties["Timeout"].as_u64().unwrap_or_default()
    }

    /// The statements of the function's role and of its managed policies.
    pub fn statements(&self) -> Vec<&'a Value> {
        let Some(role) = referred(&self.properties["Role"]) else {
            return Vec::new();
        };
        let shared: BTreeSet<&str> =
            each(&self.template.resource(role)["Properties"]["ManagedPolicyArns"])
                .filter_map(referred)
                .collect();
        let all = self.template.statements().into_iter();
        all.filter(|(id, _)| *id == role || shared.contains(id))
            .map(|(_, statement)| statement)
            .collect()
    }

    /// The actions that the function may do, such as `sqs:SendMessage`.
    pub fn actions(&self) -> BTreeSet<&'a str> {
        let statements = self.statements().into_iter();
        statements
            .flat_map(|statement| each(&statement["Action"]).filter_map(Value::as_str))
            .collect()
    }

    /// The logical ids of the resources on which the function may do actions with this prefix.
    pub fn may(&self, action: &str) -> BTreeSet<&'a str> {
        self.statements()
            .into_iter()
            .filter(|statement| {
                let mut actions = each(&statement["Action"]).filter_map(Value::as_str);
                actions.any(|allowed| allowed.starts_with(action))
            })
            .flat_map(|statement| each(&statement["Resource"]).filter_map(referred))
            .collect()
    }

    /// The logical ids of the resources of one type in the function's environment.
    pub fn environment_resources(&self, kind: &str) -> BTreeSet<&'a str> {
        let template = self.template;
        let ids = self.environment().into_values().filter_map(referred);
        ids.filter(|id| template.kind(id) == Some(kind)).collect()
    }
}

/// The parameter with the name of another stack's table.
const EXISTING_TABLE: &str = "ExistingTableName";

/// The target of a `Ref` or `GetAtt`. The ARNs of another stack's table are texts, because it has no attributes here.
pub fn referred(value: &Value) -> Option<&str> {
    let of_existing_table = || {
        let (_, rest) = value["Fn::Sub"].as_str()?.split_once(":table/${")?;
        let (name, within) = rest.split_once('}')?;
        let is_whole = within.is_empty() || within.starts_with("/stream/");
        (name == EXISTING_TABLE && is_whole).then_some(EXISTING_TABLE)
    };
    value["Ref"]
        .as_str()
        .or_else(|| value["Fn::GetAtt"][0].as_str())
        .or_else(of_existing_table)
}

/// The values of a property that can be one value or a list.
pub fn each(value: &Value) -> impl Iterator<Item = &Value> {
    let (list, one) = match value {
        Value::Array(list) => (list.as_slice(), None),
        Value::Null => (&[][..], None),
        one => (&[][..], Some(one)),
    };
    list.iter().chain(one)
}

/// An ARN or a name as it is in the template, with `${Name}` for references.
pub fn as_written(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        _ => match (&value["Fn::Sub"], referred(value)) {
            (Value::String(text), _) => text.clone(),
            (Value::Array(parts), _) => parts.first().map(as_written).unwrap_or_default(),
            (_, Some(id)) => format!("${{{id}}}"),
            _ => value.to_string(),
        },
    }
}

/// The conditions of the template, evaluated for one deployment.
struct Conditions<'a> {
    written: &'a Value,
    parameters: BTreeMap<&'a str, String>,
}

impl<'a> Conditions<'a> {
    fn of(template: &'a Value, given: &[(&'a str, &str)]) -> Result<Self> {
        let declared = template["Parameters"].as_object().context("Parameters")?;
        let mut parameters = BTreeMap::new();
        for (name, parameter) in declared {
            if let Some(default) = text(&parameter["Default"]) {
                parameters.insert(name.as_str(), default);
            }
        }
        for (name, value) in given {
            if !declared.contains_key(*name) {
                bail!("the template has no parameter {name}");
            }
            parameters.insert(*name, (*value).to_owned());
        }
        Ok(Self {
            written: &template["Conditions"],
            parameters,
        })
    }

    /// A part of the template under these conditions, or `None` if they exclude it.
    fn decide(&self, part: &Value) -> Result<Option<Value>> {
        Ok(match part {
            Value::Object(object) => {
                if let Some(choice) = object.get("Fn::If") {
                    let condition = choice[0].as_str().context("Fn::If without a condition")?;
                    let place = if self.holds(condition)? { 1 } else { 2 };
                    return self.decide(&choice[place]);
                }
                if part["Ref"] == "AWS::NoValue" {
                    return Ok(None);
                }
                // The condition of a resource or an output. In a policy's statement, it is an object.
                if let Some(condition) = part["Condition"].as_str()
                    && object.len() > 1
                    && !self.holds(condition)?
                {
                    return Ok(None);
                }
                let mut kept = Map::new();
                for (name, value) in object {
                    if let Some(value) = self.decide(value)? {
                        kept.insert(name.clone(), value);
                    }
                }
                Some(Value::Object(kept))
            }
            Value::Array(values) => {
                let mut kept = Vec::new();
                for value in values {
                    kept.extend(self.decide(value)?);
                }
                Some(Value::Array(kept))
            }
            scalar => Some(scalar.clone()),
        })
    }

    fn holds(&self, condition: &str) -> Result<bool> {
        let written = &self.written[condition];
        self.is_true(written)
            .with_context(|| format!("condition {condition}: {written}"))
    }

    fn is_true(&self, written: &Value) -> Result<bool> {
        let (function, operands) = written
            .as_object()
            .and_then(|object| object.iter().next())
            .context("not a function")?;
        match function.as_str() {
            "Condition" => self.holds(operands.as_str().context("a condition without a name")?),
            "Fn::Equals" => Ok(self.value(&operands[0])? == self.value(&operands[1])?),
            "Fn::Not" => Ok(!self.is_true(&operands[0])?),
            "Fn::And" => each(operands).try_fold(true, |all, one| Ok(all && self.is_true(one)?)),
            "Fn::Or" => each(operands).try_fold(false, |any, one| Ok(any || self.is_true(one)?)),
            other => bail!("the function {other} is not supported here"),
        }
    }

    fn value(&self, operand: &Value) -> Result<String> {
        if let Some(name) = operand["Ref"].as_str() {
            let value = self.parameters.get(name);
            return value
                .cloned()
                .with_context(|| format!("no parameter {name}"));
        }
        text(operand).with_context(|| format!("not a value: {operand}"))
    }
}

/// A value as text, which is what CloudFormation compares.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// The template in CloudFormation's long form, read once in each process.
fn read(repository: &Path) -> Result<&'static Value> {
    static TEMPLATE: OnceLock<Value> = OnceLock::new();
    match TEMPLATE.get() {
        Some(template) => Ok(template),
        None => parse(repository).map(|template| TEMPLATE.get_or_init(|| template)),
    }
}

fn parse(repository: &Path) -> Result<Value> {
    let path = repository.join("template.yaml");
    let mut template = ringback_local::cloud::template::Template::read(&path)?.into_value();
    let globals = template["Globals"]["Function"].clone();
    let resources = template["Resources"].as_object_mut();
    for (_, resource) in resources.into_iter().flatten() {
        if resource["Type"] == "AWS::Serverless::Function" {
            add_defaults(&mut resource["Properties"], &globals);
        }
    }
    Ok(template)
}

/// Adds the properties of `Globals` to those of a function, as SAM does: its own values take precedence, and maps are merged.
fn add_defaults(own: &mut Value, defaults: &Value) {
    if let (Value::Object(own), Value::Object(defaults)) = (own, defaults) {
        for (name, default) in defaults {
            let own = own.entry(name.clone()).or_insert_with(|| default.clone());
            add_defaults(own, default);
        }
    }
}
