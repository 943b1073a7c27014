//! `ringback region`: sets up the second region of a running stack. Each step first looks whether it is done, so the command may stop at
//! any point and run again.

mod cloud;
mod samconfig;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::deployment::{Deployment, Target};
use crate::doctor;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::secret_name::SecretName;
use samconfig::{FIRST, SECOND, SamConfig};

const HELP: &str = "\
1. CloudFormation gives the table a replica in REGION. The update changes only OtherRegion.
2. samconfig.toml gets the values of both stacks, under primary and fallback.
3. You run `sam deploy --config-env fallback`, and this command again.
4. The secrets are copied to REGION, and `ringback doctor` checks both regions.

Each step first looks whether it is done. If one fails, or you press Ctrl-C, run the command again.

Example:
  ringback region add ap-southeast-1 --dry-run";

/// How often the state of the stack is read.
const POLL: Duration = Duration::from_secs(2);
/// How often a state that has not changed is printed.
const SAY_AGAIN: Duration = Duration::from_secs(30);
/// The states of a stack that can be updated.
const SETTLED: [&str; 5] = [
    "CREATE_COMPLETE",
    "UPDATE_COMPLETE",
    "UPDATE_ROLLBACK_COMPLETE",
    "IMPORT_COMPLETE",
    "IMPORT_ROLLBACK_COMPLETE",
];
/// Regions in which API Gateway has a smaller quota. The template describes `AccountRequestsPerSecond`.
const SMALL_QUOTA: [&str; 3] = ["ap-south-2", "ap-southeast-3", "me-central-1"];
/// Regions in which SNS has mobile push
/// (<https://docs.aws.amazon.com/sns/latest/dg/sns-mobile-push-supported-regions.html>).
const SNS_MOBILE_PUSH: [&str; 25] = [
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
    "af-south-1",
    "ap-east-1",
    "ap-southeast-3",
    "ap-south-1",
    "ap-northeast-3",
    "ap-northeast-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-northeast-1",
    "ca-central-1",
    "eu-central-1",
    "eu-west-1",
    "eu-west-2",
    "eu-south-1",
    "eu-south-2",
    "eu-west-3",
    "eu-north-1",
    "me-south-1",
    "me-central-1",
    "sa-east-1",
    "us-gov-west-1",
];
/// Parameters of one region that this command sets, or that the other stack does not need. They are not copied to it.
const SET_HERE: [&str; 6] = [
    "OtherRegion",
    "ExistingTableName",
    "ExistingTableStreamLabel",
    "PublicHttpUrl",
    "LocalApiGatewayUrl",
    "AccountRequestsPerSecond",
];
/// Parameters that name something of one region, which a person sets for the other stack. They are not copied to it either.
const SET_BY_A_PERSON: [&str; 7] = [
    "HttpDomainName",
    "WebSocketDomainName",
    "CertificateArn",
    "FailoverRole",
    "VpcSubnetIds",
    "VpcSecurityGroupIds",
    "AlarmTopicArn",
];

#[derive(Subcommand, Debug)]
pub(crate) enum RegionCommand {
    /// Set up a second region for the running stack, or continue. Exit code 1: a fault was found in one of both regions
    #[command(after_help = HELP)]
    Add(AddArguments),
}

#[derive(Args, Debug)]
pub(crate) struct AddArguments {
    /// The second region, such as ap-southeast-1
    #[arg(value_name = "REGION")]
    other: String,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// Replace this secret of the second region although it has another value. Repeat it for several secrets
    #[arg(long, value_name = "SECRET")]
    overwrite: Vec<SecretName>,
    /// The configuration of sam
    #[arg(long, value_name = "FILE", default_value = "samconfig.toml")]
    config_file: PathBuf,
}

/// What was done, for people as it happens and for the document at the end.
struct Steps {
    output: Output,
    is_dry_run: bool,
    documents: Vec<Value>,
}

impl Steps {
    /// A step that was done before.
    fn already(&mut self, step: &str, text: &str) {
        self.record("already", step, text);
    }

    /// A step that was done now, or with --dry-run would be done.
    fn done(&mut self, step: &str, text: &str) {
        let state = if self.is_dry_run { "would" } else { "done" };
        self.record(state, step, text);
    }

    fn record(&mut self, state: &str, step: &str, text: &str) {
        self.output.note(&format!("{state:<8} {step:<10} {text}"));
        let document = json!({ "state": state, "step": step, "text": text });
        self.documents.push(document);
    }
}

/// Runs `ringback region add`, and returns whether no fault was found.
pub(crate) async fn add(target: &Target, add: AddArguments, output: Output) -> Result<bool> {
    let other = add.other.as_str();
    let mut steps = Steps {
        output,
        is_dry_run: add.dry_run,
        documents: Vec::new(),
    };
    // Everything that can be refused is refused before anything is changed.
    let file = SamConfig::read(&add.config_file)?;
    let here = target.find().await?;
    check_name(here.region(), other)?;
    let aws_there = target.aws_in(other).await?;
    cloud::check_services(&aws_there, other).await?;
    let here = settled(target, here, other, output).await?;
    check_first(&here, other)?;
    if let Some(there) = target.find_in(other).await? {
        check_second(&here, &there)?;
    }
    warn(&here, other, output);

    let here = add_replica(target, here, other, &mut steps).await?;
    let table = here.output("TableName")?;
    let label = cloud::stream_label(&aws_there, table).await?;
    if label.is_none() && !add.dry_run {
        return Err(Failure::not_reachable(format!(
            "The table {table} has no stream in {other} yet: run the command again."
        )));
    }
    let label = label.as_deref().unwrap_or("LABEL");
    let there = target.find_in(other).await?;
    let values = [
        ("ExistingTableName", table),
        ("ExistingTableStreamLabel", label),
    ];
    write_file(file, &here, other, values, there.is_none(), &mut steps).await?;

    let is_deployed = |there: &Deployment| {
        let uses = |(name, value)| there.parameter(name) == Some(value);
        values.into_iter().all(uses)
    };
    let Some(there) = there.filter(is_deployed) else {
        let path = add.config_file.display().to_string();
        let file = match path.as_str() {
            "samconfig.toml" => String::new(),
            path => format!(" --config-file {path}"),
        };
        let next = format!("sam deploy --config-env fallback{file}");
        let text = format!(
            "Next, run this command, in a checkout after `sam build`. Then run `ringback region add {other}` again.\n\n  {next}"
        );
        let document = json!({ "region": other, "steps": steps.documents, "next": next });
        output.print(&document, &text)?;
        return Ok(true);
    };
    steps.already("stack", &format!("{} in {other}", there.name));
    copy_secrets(&here, &there, &add.overwrite, &mut steps).await?;
    if add.dry_run {
        let document = json!({ "region": other, "steps": steps.documents, "next": null });
        output.print(&document, "Nothing was changed.")?;
        return Ok(true);
    }
    verify(&here, &there, &steps).await
}

fn check_name(here: &str, other: &str) -> Result<()> {
    let parts: Vec<&str> = other.split('-').collect();
    let is_word = |part: &&str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_lowercase());
    let is_number = |part: &&str| part.len() <= 2 && part.parse::<u8>().is_ok();
    let is_name = match parts.as_slice() {
        [area, words @ .., number] => {
            let words_are_words = !words.is_empty() && words.iter().all(is_word);
            area.len() == 2 && is_word(area) && words_are_words && is_number(number)
        }
        _ => false,
    };
    let partition = |region: &str| ["cn-", "us-gov-"].map(|start| region.starts_with(start));
    Err(Failure::wrong_use(match () {
        () if !is_name => {
            format!("{other:.64} is not a region: use a name such as ap-southeast-1.")
        }
        () if other == here => format!("The stack is in {here} itself: name another region."),
        () if partition(here) != partition(other) => {
            format!(
                "A global table cannot span {here} and {other}: they belong to different AWS partitions."
            )
        }
        () => return Ok(()),
    }))
}

/// Waits until no update of the stack is in progress, and returns the stack as it is then.
async fn settled(
    target: &Target,
    mut deployment: Deployment,
    other: &str,
    output: Output,
) -> Result<Deployment> {
    let begun = Instant::now();
    let mut said: Option<(String, Instant)> = None;
    while deployment.status.ends_with("_IN_PROGRESS") {
        let replica = cloud::replica(&deployment, other).await?;
        let replica = replica.map_or_else(String::new, |state| format!(", replica {state}"));
        let state = format!("{}{replica}", deployment.status);
        let is_known = said
            .as_ref()
            .is_some_and(|(before, at)| *before == state && at.elapsed() < SAY_AGAIN);
        if !is_known {
            let seconds = begun.elapsed().as_secs();
            output.note(&format!("waiting  {state} ({seconds} s)"));
            said = Some((state, Instant::now()));
        }
        sleep(POLL).await;
        deployment = target.find().await?;
    }
    Ok(deployment)
}

/// The running stack can get a second region.
fn check_first(here: &Deployment, other: &str) -> Result<()> {
    check_state(here)?;
    let (name, region) = (&here.name, here.region());
    let set = here.parameter("OtherRegion");
    if let Some(table) = here.parameter("ExistingTableName") {
        return Err(Failure::refused(match set {
            Some(set) => format!(
                "The stack {name} in {region} is the second of two regions. Run the command for the first one, with --region {set}."
            ),
            None => format!(
                "The stack {name} uses the table {table}, which does not belong to it, so CloudFormation cannot give it a replica. docs/two-regions.md says what to do."
            ),
        }));
    }
    match set {
        Some(set) if set != other => Err(Failure::refused(format!(
            "The stack {name} has a second region already, {set}. To replace that region, first delete the stack there, then deploy {name} with OtherRegion empty."
        ))),
        None if here.parameters().all(|(name, _)| name != "OtherRegion") => {
            Err(Failure::refused(format!(
                "The stack {name} is of a version without the parameter OtherRegion: first deploy this version without other changes."
            )))
        }
        _ => Ok(()),
    }
}

/// A stack of this name in the second region belongs to the first one.
fn check_second(here: &Deployment, there: &Deployment) -> Result<()> {
    let (name, other) = (&there.name, there.region());
    let is_second = there.parameter("OtherRegion") == Some(here.region())
        && there.parameter("ExistingTableName").is_some();
    if !is_second {
        return Err(Failure::refused(format!(
            "There is a stack {name} in {other} that is not the second region of this one: its OtherRegion is not {}, or it has a table of its own. Delete it, or choose another region.",
            here.region()
        )));
    }
    check_state(there)
}

fn check_state(deployment: &Deployment) -> Result<()> {
    let Deployment { name, status, .. } = deployment;
    let region = deployment.region();
    if SETTLED.contains(&status.as_str()) {
        return Ok(());
    }
    let fix = match status.as_str() {
        "UPDATE_ROLLBACK_FAILED" => format!(
            "run `aws cloudformation continue-update-rollback --region {region} --stack-name {name}`, then this command again"
        ),
        state if state.ends_with("_IN_PROGRESS") => {
            "wait until that is over, then run this command again".to_owned()
        }
        _ => "see its events in the console of CloudFormation, and deploy it again".to_owned(),
    };
    Err(Failure::refused(format!(
        "The stack {name} in {region} is in the state {status}: {fix}."
    )))
}

/// What a person must know about the region.
fn warn(here: &Deployment, other: &str, output: Output) {
    if !SNS_MOBILE_PUSH.contains(&other) {
        output.note(&format!(
            "warning: SNS has no mobile push in {other}. Pushes over SNS (iOS) go through applications in another region, whose ARNs the stack in {other} gets too. docs/india.md says what leaves the region."
        ));
    }
    let is_set = |name: &&str| here.parameter(name).is_some();
    let own: Vec<&str> = SET_BY_A_PERSON.into_iter().filter(is_set).collect();
    if !own.is_empty() {
        output.note(&format!(
            "warning: these parameters belong to {}, so the stack in {other} gets none of them. Set its own under fallback: {}.",
            here.region(),
            own.join(", ")
        ));
    }
}

/// Gives the table its replica, and waits for it.
async fn add_replica(
    target: &Target,
    here: Deployment,
    other: &str,
    steps: &mut Steps,
) -> Result<Deployment> {
    let table = here.output("TableName")?.to_owned();
    let text = format!("{table} in {other}");
    if here.parameter("OtherRegion").is_some() {
        steps.already("replica", &text);
        return Ok(here);
    }
    let region = here.region().to_owned();
    let removal = format!(
        "`aws dynamodb update-table --region {region} --table-name {table} --replica-updates '[{{\"Delete\":{{\"RegionName\":\"{other}\"}}}}]'`"
    );
    if let Some(state) = cloud::replica(&here, other).await? {
        return Err(Failure::refused(format!(
            "An update that was rolled back has left a replica of the table in {other} ({state}), which CloudFormation does not know. Remove it with {removal}, wait until it is gone, then run this command again."
        )));
    }
    if steps.is_dry_run {
        steps.done("replica", &text);
        return Ok(here);
    }
    let update = cloud::update(&here, other).await?;
    let here = settled(target, target.find().await?, other, steps.output).await?;
    if here.parameter("OtherRegion") != Some(other) {
        let reason = cloud::reason_of_rollback(&here, &update).await?;
        return Err(Failure::refused(format!(
            "CloudFormation has rolled the update of {} back ({}): {reason}",
            here.name, here.status
        )));
    }
    check_state(&here)?;
    steps.done("replica", &text);
    Ok(here)
}

/// Writes what both stacks need into samconfig.toml, and shows the changes.
async fn write_file(
    mut file: SamConfig,
    here: &Deployment,
    other: &str,
    table: [(&str, &str); 2],
    is_new: bool,
    steps: &mut Steps,
) -> Result<()> {
    let mut shared = BTreeMap::new();
    // Later, the file may differ from the stack on purpose.
    if is_new {
        let defaults = cloud::defaults(here).await?;
        let is_shared = |(name, value): &(&str, &str)| {
            let is_of_one_region = SET_HERE.contains(name) || SET_BY_A_PERSON.contains(name);
            !is_of_one_region && defaults.get(*name).is_none_or(|it| it != value)
        };
        shared.extend(here.parameters().filter(is_shared));
    }
    let own = [("OtherRegion", other)];
    file.set(FIRST, &here.name, here.region(), &own, &shared)?;
    if is_new && SMALL_QUOTA.contains(&other) {
        shared.insert("AccountRequestsPerSecond", "2500");
    }
    let own = [("OtherRegion", here.region()), table[0], table[1]];
    file.set(SECOND, &here.name, other, &own, &shared)?;
    let path = file.path().display().to_string();
    let Some(diff) = file.diff() else {
        steps.already("file", &path);
        return Ok(());
    };
    if !steps.is_dry_run {
        file.write()?;
    }
    steps.done("file", &format!("{path}\n{diff}"));
    Ok(())
}

/// Copies the secrets. A value that a person has set in the second region stays, unless --overwrite names its secret.
async fn copy_secrets(
    here: &Deployment,
    there: &Deployment,
    overwrite: &[SecretName],
    steps: &mut Steps,
) -> Result<()> {
    let mut different = Vec::new();
    for secret in SecretName::ALL {
        let (ours, theirs) = (secret.read(here).await?, secret.read(there).await?);
        let name = secret.name();
        if ours.is_empty() {
            steps.already(
                "secret",
                &format!("{name} has no value in {}", here.region()),
            );
        } else if ours == theirs {
            steps.already("secret", &format!("{name} is equal"));
        } else if theirs.is_empty()
            || overwrite.contains(&secret)
            || secret.is_as_generated(there).await?
        {
            if !steps.is_dry_run {
                there
                    .put_secret(secret.output(), &Value::Object(ours))
                    .await?;
            }
            steps.done("secret", &format!("{name} copied"));
        } else {
            different.push(name);
        }
    }
    if different.is_empty() {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "These secrets have another value in {}, and were left as they are: {}. If the value in {} is right, run the command again with --overwrite {}.",
        there.region(),
        different.join(", "),
        here.region(),
        different.join(" --overwrite "),
    )))
}

/// Checks both regions, and prints what the PBX and Exotel need.
async fn verify(here: &Deployment, there: &Deployment, steps: &Steps) -> Result<bool> {
    let output = steps.output;
    let (mut texts, mut findings) = (String::new(), serde_json::Map::new());
    let mut is_healthy = true;
    for region in [here, there] {
        let found = doctor::examine(region, output).await?;
        is_healthy &= found.is_empty();
        texts += &format!("{}: {}\n", region.region(), doctor::text(&found));
        findings.insert(region.region().to_owned(), doctor::documents(&found).into());
    }
    let [hook, fallback_hook] = [
        here.output("RegionalHttpUrl")?,
        there.output("RegionalHttpUrl")?,
    ];
    let [webhook, fallback_webhook] = [
        here.output("ExotelWebhookUrl")?,
        there.output("ExotelWebhookUrl")?,
    ];
    let text = format!(
        "{texts}
For ringback-site/dialplan.conf on each PBX, then `asterisk -rx 'dialplan reload'`:
  RINGBACK_HOOK_URL = {hook}
  RINGBACK_FALLBACK_HOOK_URL = {fallback_hook}

For Passthru and StatusCallback in Exotel's flow, each with ?secret=WEBHOOK_SECRET:
  URL           {webhook}
  fallback URL  {fallback_webhook}"
    );
    let document = json!({
        "region": there.region(), "steps": steps.documents, "next": null, "findings": findings,
        "hook_urls": [hook, fallback_hook], "exotel_webhook_urls": [webhook, fallback_webhook],
    });
    output.print(&document, &text)?;
    Ok(is_healthy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_region_is_another_one_of_the_same_partition() {
        for (other, expected) in [
            ("ap-south-1", "in ap-south-1 itself"),
            ("singapore", "is not a region"),
            ("ap-southeast", "is not a region"),
            ("AP-SOUTHEAST-1", "is not a region"),
            ("ap--1", "is not a region"),
            ("cn-north-1", "different AWS partitions"),
            ("us-gov-west-1", "different AWS partitions"),
        ] {
            let failure = check_name("ap-south-1", other).unwrap_err();
            assert!(failure.to_string().contains(expected), "{failure}");
            assert_eq!(failure.number(), 2);
        }
        for other in ["ap-southeast-1", "us-east-2", "mx-central-1"] {
            assert_eq!(check_name("ap-south-1", other), Ok(()));
        }
    }
}
