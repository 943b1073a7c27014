//! `ringback region add` on the local stack in two regions. The secrets, the tables and the checks are real, and so is CloudFormation
//! except for the update of the first stack: the local CloudFormation replaces a table that gets a replica, so a stand-in answers
//! `UpdateStack`, and shows the parameter in `DescribeStacks`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use ringback_e2e::fixture::{Fixture, SOON};
use ringback_e2e::ringback_command::{Outcome, Ringback};
use ringback_local::cloud::region::{FALLBACK, PRIMARY, Region};
use ringback_local::cloud::replica;
use ringback_local::settings::STACK_NAME;
use serde_json::{Value, json};

use crate::region_pair::two_regions;
use crate::update_stand_in::UpdateStandIn;

const SAMCONFIG: &str = include_str!("../../../samconfig.toml");
/// A region of the second local AWS, without a deployment.
const EMPTY: Region = Region {
    name: "ap-southeast-2",
    ..FALLBACK
};

#[tokio::test(flavor = "multi_thread")]
async fn a_running_stack_gets_a_second_region_in_steps_that_can_be_repeated() -> Result<()> {
    let (primary, fallback, loss) = two_regions().await?;
    // A route to an extension without a device would be a finding.
    for extension in primary.stack.numbers.values().collect::<BTreeSet<_>>() {
        primary.app(extension).await?;
    }
    loss.wait_until_replicated(SOON).await?;
    let stand_in = UpdateStandIn::start(&primary.stack).await?;
    from_the_beginning(&primary, &stand_in).await?;
    stand_in.set("");
    with_a_deployed_stack(&primary, &fallback, &stand_in).await
}

/// The second region has no stack yet.
async fn from_the_beginning(primary: &Fixture, stand_in: &UpdateStandIn) -> Result<()> {
    let mut stack = stand_in.stack.clone();
    let there = stack.fallback.as_mut().context("two regions")?;
    EMPTY.name.clone_into(&mut there.aws.region);
    let ringback = Ringback::with(Some(&stack))?;
    let add = ["region", "add", EMPTY.name];
    ringback.run(&add).await?.fails(2, "samconfig.toml");
    ringback.file("samconfig.toml", SAMCONFIG)?;
    let file = || std::fs::read_to_string(ringback.path("samconfig.toml"));

    for (wrong, code, sentence) in [
        ("ap-south-1", 2, "in ap-south-1 itself"),
        ("singapore", 2, "is not a region"),
        ("eu-west-1", 2, "has no region eu-west-1"),
    ] {
        let refused = ringback.run(&["region", "add", wrong]).await?;
        refused.fails(code, sentence);
    }
    let dry = ringback
        .run(&["region", "add", EMPTY.name, "--dry-run"])
        .await?;
    dry.succeeds();
    ensure!(dry.stderr.contains("would    replica"), "{dry:?}");
    ensure!(
        dry.stderr.contains("+    \"OtherRegion=ap-southeast-2\""),
        "{dry:?}"
    );
    assert_eq!(
        stand_in.other_region(),
        "",
        "a dry run has updated the stack"
    );
    assert_eq!(file()?, SAMCONFIG, "a dry run has written");

    // The update of the stack is made, and then there is no replica: as if the command had stopped half way.
    ringback.run(&add).await?.fails(3, "run the command again");
    assert_eq!(stand_in.other_region(), EMPTY.name);
    assert_eq!(file()?, SAMCONFIG);
    let elsewhere = Ringback::with(Some(&stand_in.stack))?;
    elsewhere.file("samconfig.toml", SAMCONFIG)?;
    let second = elsewhere.run(&["region", "add", FALLBACK.name]).await?;
    second.fails(1, "has a second region already, ap-southeast-2");

    let table = &primary.stack.aws.table;
    let label = replica::create(PRIMARY, table, EMPTY).await?;
    let continued = ringback.run(&add).await?;
    ensure!(
        continued.stderr.contains("already  replica"),
        "{continued:?}"
    );
    let next = "sam deploy --config-env fallback\n";
    ensure!(continued.succeeds().ends_with(next), "{continued:?}");
    let text = file()?;
    for expected in [
        "stack_name = \"ringback-local\"\n",
        "region = \"ap-southeast-2\"\n",
        "    \"OtherRegion=ap-south-1\",\n",
        &format!("    \"ExistingTableName={table}\",\n    \"ExistingTableStreamLabel={label}\",\n"),
        // What the running stack has, and the template's default is not.
        "    \"CallerIdPolicy=any\",\n",
        "    \"AriUrl=pbx1=https://",
    ] {
        ensure!(text.contains(expected), "{expected} is not in {text}");
    }
    let added: Vec<&str> = text
        .lines()
        .filter(|line| !SAMCONFIG.contains(line))
        .collect();
    for absent in ["AlarmFailures", "PublicHttpUrl", "LocalApiGatewayUrl"] {
        ensure!(!added.iter().any(|line| line.contains(absent)), "{added:?}");
    }
    let again = ringback.run(&add).await?;
    ensure!(again.succeeds().ends_with(next), "{again:?}");
    ensure!(again.stderr.contains("already  file"), "{again:?}");
    assert_eq!(file()?, text);
    Ok(())
}

/// `sam deploy` has run.
async fn with_a_deployed_stack(
    primary: &Fixture,
    fallback: &Fixture,
    stand_in: &UpdateStandIn,
) -> Result<()> {
    let ringback = Ringback::with(Some(&stand_in.stack))?;
    ringback.file("samconfig.toml", SAMCONFIG)?;
    let add = async |more: &[&str]| {
        let arguments = [&["region", "add", FALLBACK.name, "--json"], more].concat();
        ringback.run(&arguments).await
    };
    let (signing, exotel) = (
        primary.secret("signing").await?,
        primary.secret("exotel").await?,
    );
    // The stack has generated this one. A person has set the other one.
    fallback
        .put_secret("signing", r#"{"signing_secret":"hush-generated"}"#)
        .await?;
    forget_previous_value(fallback, "signing").await?;
    fallback
        .put_secret("exotel", r#"{"account_sid":"hush-set"}"#)
        .await?;

    let refused = add(&[]).await?;
    refused.fails(
        1,
        "left as they are: exotel. If the value in ap-south-1 is right",
    );
    says_no_secret(&refused, [&signing, &exotel]);
    assert_eq!(stand_in.other_region(), FALLBACK.name);
    assert_eq!(fallback.secret("signing").await?, signing);
    assert_eq!(fallback.secret("exotel").await?["account_sid"], "hush-set");

    let added = add(&["--overwrite", "exotel"]).await?;
    says_no_secret(&added, [&signing, &exotel]);
    assert_eq!(fallback.secret("exotel").await?, exotel);
    let document = added.document()?;
    let (here, there) = (&primary.stack, &fallback.stack);
    assert_eq!(
        document["findings"],
        json!({ here.aws.region.as_str(): [], there.aws.region.as_str(): [] })
    );
    assert_eq!(
        document["hook_urls"],
        json!([here.http_url, there.http_url])
    );
    assert_eq!(document["next"], Value::Null);

    let again = add(&[]).await?.document()?;
    let steps = again["steps"].as_array().context("steps")?;
    ensure!(steps.len() == 10, "{steps:#?}");
    ensure!(
        steps.iter().all(|step| step["state"] == "already"),
        "{steps:#?}"
    );

    let mut reversed = fallback.stack.clone();
    reversed.fallback = Some(Box::new(primary.stack.clone()));
    let reversed = Ringback::with(Some(&reversed))?;
    reversed.file("samconfig.toml", SAMCONFIG)?;
    let second = reversed.run(&["region", "add", "ap-south-1"]).await?;
    second.fails(1, "is the second of two regions");
    Ok(())
}

fn says_no_secret(outcome: &Outcome, secrets: [&Value; 2]) {
    let values = secrets.into_iter().filter_map(Value::as_object);
    let values = values.flat_map(|fields| fields.values().filter_map(Value::as_str));
    for value in values.chain(["hush-"]) {
        for printed in [&outcome.stdout, &outcome.stderr] {
            assert!(!printed.contains(value), "{value} is in {printed}");
        }
    }
}

/// Makes a secret look as its stack has created it: with one value.
async fn forget_previous_value(fixture: &Fixture, name: &str) -> Result<()> {
    let manager = aws_sdk_secretsmanager::Client::new(&fixture.aws);
    let id = format!("{STACK_NAME}/{name}");
    let described = manager.describe_secret().secret_id(&id).send().await?;
    let versions = described.version_ids_to_stages.unwrap_or_default();
    let previous = |stages: &Vec<String>| stages.iter().any(|stage| stage == "AWSPREVIOUS");
    let version = versions.into_iter().find(|(_, stages)| previous(stages));
    let (version, _) = version.context("a previous value")?;
    let change = manager.update_secret_version_stage().secret_id(&id);
    let change = change
        .version_stage("AWSPREVIOUS")
        .remove_from_version_id(version);
    change.send().await?;
    Ok(())
}
