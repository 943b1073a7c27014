//! The SIP accounts of devices, when a function is killed or the PBX is away at any step of an account's life. Afterwards, the
//! scheduled function makes the PBX hold exactly the accounts of the live devices.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use nix::sys::signal::Signal;
use ringback_e2e::fixture::{App, Fixture, SOON};
use ringback_e2e::sip_account::SipAccount;
use ringback_local::faults::rule::{Fault, KillPoint, LinkState, System};
use ringback_local::settings::STACK_NAME;
use serde_json::{Value, json};

use crate::faults::{from, rule};
use crate::harness::Harness;
use crate::pbx;

/// The name of the fault.
const RULE: &str = "sip-accounts";
/// The PBX's name, which is the default of a single URL.
const PBX: &str = "PBX#pbx";
/// The requests that change something, by system and operation.
const WRITES: [(System, &str); 6] = [
    (System::Aws, "DynamoDB TransactWriteItems"),
    (System::Aws, "DynamoDB PutItem"),
    (System::Aws, "DynamoDB UpdateItem"),
    (System::Aws, "DynamoDB DeleteItem"),
    (System::Pbx, "PUT "),
    (System::Pbx, "DELETE "),
];

type Item = std::collections::HashMap<String, AttributeValue>;

/// A step in the life of an account.
#[derive(Clone, Copy, Debug)]
enum Step {
    Create,
    Renew,
    RemoveAccount,
    Delete,
    Evict,
    Expire,
}

impl Step {
    const ALL: [Self; 6] = [
        Self::Create,
        Self::Renew,
        Self::RemoveAccount,
        Self::Delete,
        Self::Evict,
        Self::Expire,
    ];

    /// The function that takes the step.
    const fn function(self) -> &'static str {
        match self {
            Self::Expire => "sip-accounts",
            _ => "devices",
        }
    }

    async fn prepare(self, world: &World<'_>, app: &App<'_>) -> Result<()> {
        match self {
            Self::Create => Ok(()),
            Self::Evict => {
                // The app's device is the oldest of as many as an extension may have.
                register(app, true).await?;
                for _ in 0..4 {
                    register(&world.fixture.unregistered_app("1001"), true).await?;
                }
                Ok(())
            }
            _ => register(app, true).await,
        }
    }

    /// Takes the step. Its answer does not matter, because the function may be killed.
    async fn take(self, world: &World<'_>, app: &App<'_>) -> Result<()> {
        let _answer = match self {
            Self::Create | Self::Renew => register(app, true).await,
            Self::RemoveAccount => register(app, false).await,
            Self::Delete => app.unregister().await,
            Self::Evict => register(&world.fixture.unregistered_app("1001"), true).await,
            Self::Expire => {
                world.end_accounts().await?;
                world.make_jobs_due().await?;
                world.run_scheduled_function().await
            }
        };
        Ok(())
    }
}

async fn register(app: &App<'_>, sip: bool) -> Result<()> {
    let (status, answer) = app.register(json!({ "sip": sip })).await?;
    ensure!(status.is_success(), "{status}: {answer}");
    Ok(())
}

/// The table and the PBX.
struct World<'a> {
    fixture: &'a Fixture,
    table: Client,
}

impl<'a> World<'a> {
    /// Without devices, accounts and jobs.
    async fn open(harness: &'a Harness) -> Result<Self> {
        let world = Self {
            fixture: &harness.fixture,
            table: Client::new(&harness.fixture.aws),
        };
        world.clear().await?;
        Ok(world)
    }

    async fn items(&self, pk: &str) -> Result<Vec<Item>> {
        let query = self
            .table
            .query()
            .table_name(&self.fixture.stack.aws.table)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", AttributeValue::S(pk.to_owned()));
        Ok(query.send().await?.items.unwrap_or_default())
    }

    async fn put(&self, item: Item) -> Result<()> {
        let table = &self.fixture.stack.aws.table;
        let put = self.table.put_item().table_name(table).set_item(Some(item));
        put.send().await?;
        Ok(())
    }

    async fn delete(&self, item: &Item) -> Result<()> {
        let table = &self.fixture.stack.aws.table;
        let delete = self.table.delete_item().table_name(table);
        let delete = delete.key("pk", item["pk"].clone());
        delete.key("sk", item["sk"].clone()).send().await?;
        Ok(())
    }

    /// All jobs are due now, as if their time had passed.
    async fn make_jobs_due(&self) -> Result<()> {
        for item in self.items(PBX).await? {
            let (_, account) = text(&item, "sk").split_once('#').context("no job")?;
            let mut due = item.clone();
            let sk = format!("{:013}#{account}", 1);
            due.insert("sk".to_owned(), AttributeValue::S(sk));
            self.delete(&item).await?;
            self.put(due).await?;
        }
        Ok(())
    }

    /// All accounts have ended.
    async fn end_accounts(&self) -> Result<()> {
        for mut item in self.items("SIP-ACCOUNTS").await? {
            let past = AttributeValue::N("1".to_owned());
            item.insert("valid_until".to_owned(), past);
            self.put(item).await?;
        }
        Ok(())
    }

    async fn run_scheduled_function(&self) -> Result<()> {
        let stack = &self.fixture.stack;
        let function = format!("{STACK_NAME}-sip-accounts");
        let endpoint = &stack.aws.endpoint;
        let url = format!("{endpoint}/2015-03-31/functions/{function}/invocations");
        let answer = self.fixture.http.post(url).body("{}").send().await?;
        ensure!(answer.status().is_success(), "{}", answer.status());
        Ok(())
    }

    async fn ari(&self, path: &str) -> Result<Value> {
        let ari = &self.fixture.stack.ari;
        let request = self.fixture.http.get(format!("{}{path}", ari.local_url));
        let request = request.basic_auth(&ari.username, Some(&ari.password));
        Ok(request.send().await?.json().await?)
    }

    /// The accounts that devices name and that have not ended, with the digests of their passwords.
    async fn live_accounts(&self) -> Result<BTreeMap<String, String>> {
        let devices = self.items("EXTENSION#1001").await?;
        let named: BTreeSet<&str> = devices
            .iter()
            .filter_map(|item| item.get("sip_account")?.as_s().ok().map(String::as_str))
            .collect();
        let accounts = self.items("SIP-ACCOUNTS").await?;
        let live = accounts.iter().filter(|item| {
            let has_ended = item["valid_until"].as_n().is_ok_and(|until| until == "1");
            named.contains(text(item, "sk")) && !has_ended
        });
        let with_digest = |item: &Item| {
            (
                text(item, "sk").to_owned(),
                text(item, "password_digest").to_owned(),
            )
        };
        Ok(live.map(with_digest).collect())
    }

    /// The generated accounts that the PBX has, with the digests of their passwords. Each has two endpoints.
    async fn accounts_on_pbx(&self) -> Result<BTreeMap<String, String>> {
        let endpoints = self.ari("/endpoints/PJSIP").await?;
        let endpoints = endpoints.as_array().into_iter().flatten();
        let endpoints = endpoints.filter_map(|endpoint| endpoint["resource"].as_str());
        let mut counts = BTreeMap::new();
        for endpoint in endpoints.filter(|name| name.starts_with("1001-")) {
            let name = endpoint.trim_end_matches("-webrtc");
            *counts.entry(name.to_owned()).or_insert(0) += 1;
        }
        let mut found = BTreeMap::new();
        for (name, count) in counts {
            let path = format!("/asterisk/config/dynamic/res_pjsip/auth/{name}");
            let auth = self.ari(&path).await?;
            let mut fields = auth.as_array().into_iter().flatten();
            let digest = fields.find(|field| field["attribute"] == "password_digest");
            let digest = digest.and_then(|field| field["value"].as_str());
            let digest = digest.filter(|_| count == 2).unwrap_or("incomplete");
            found.insert(name, digest.to_owned());
        }
        Ok(found)
    }

    /// What is left over is done by the next runs of the scheduled function.
    async fn settles(&self, what: &str) -> Result<()> {
        self.make_jobs_due().await?;
        self.run_scheduled_function().await?;
        let (live, on_pbx) = (self.live_accounts().await?, self.accounts_on_pbx().await?);
        ensure!(
            live == on_pbx,
            "{what}: live {live:?}, on the PBX {on_pbx:?}"
        );
        let jobs = self.items(PBX).await?.len();
        ensure!(jobs == 0, "{what}: {jobs} jobs are left");
        Ok(())
    }

    /// Removes all devices, accounts and jobs.
    async fn clear(&self) -> Result<()> {
        for pk in ["EXTENSION#1001", "SIP-ACCOUNTS", PBX] {
            for item in self.items(pk).await? {
                if !pk.starts_with("EXTENSION") || text(&item, "sk").starts_with("DEVICE#") {
                    self.delete(&item).await?;
                }
            }
        }
        let ari = &self.fixture.stack.ari;
        for name in self.accounts_on_pbx().await?.into_keys() {
            let endpoints = [
                format!("endpoint/{name}"),
                format!("endpoint/{name}-webrtc"),
            ];
            let others = [format!("auth/{name}"), format!("aor/{name}")];
            for object in endpoints.into_iter().chain(others) {
                let path = format!("/asterisk/config/dynamic/res_pjsip/{object}");
                let request = self.fixture.http.delete(format!("{}{path}", ari.local_url));
                let request = request.basic_auth(&ari.username, Some(&ari.password));
                request.send().await?;
            }
        }
        Ok(())
    }
}

fn text<'a>(item: &'a Item, name: &str) -> &'a str {
    item[name].as_s().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: part of `make chaos`"]
async fn a_killed_function_leaves_exactly_the_accounts_of_live_devices() -> Result<()> {
    let harness = Harness::open(0).await?;
    let world = &World::open(&harness).await?;
    let mut kills = 0;
    for step in Step::ALL {
        for (system, operation) in WRITES {
            for moment in [KillPoint::Before, KillPoint::After] {
                for skip in 0.. {
                    let what = format!("{step:?}, {moment:?} {operation}{skip}");
                    let app = world.fixture.unregistered_app("1001");
                    step.prepare(world, &app).await?;
                    let mut kill = from(
                        step.function(),
                        rule(system, operation, Some(1), Fault::Kill(moment)),
                    );
                    kill.skip = skip;
                    harness.faults.make(RULE, &kill).await?;
                    step.take(world, &app).await?;
                    let applied = harness.faults.met(RULE).await?.applied;
                    harness.faults.drop_rule(RULE).await?;
                    world.settles(&what).await?;
                    world.clear().await?;
                    if applied == 0 {
                        break;
                    }
                    kills += 1;
                }
            }
        }
    }
    println!("{kills} kills");
    assert!(kills >= 40, "only {kills} kills");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "part of `make chaos`"]
async fn a_pbx_that_crashes_after_its_answer_gets_exactly_the_accounts_of_live_devices()
-> Result<()> {
    let harness = Harness::open(0).await?;
    let world = &World::open(&harness).await?;
    world.run_scheduled_function().await?;
    for step in Step::ALL {
        let app = world.fixture.unregistered_app("1001");
        step.prepare(world, &app).await?;
        // Asterisk commits what it has until here.
        tokio::time::sleep(Duration::from_secs(3)).await;
        step.take(world, &app).await?;
        pbx::signal(Signal::SIGKILL)?;
        pbx::wait_until_back(world.fixture).await?;
        let (live, on_pbx) = (world.live_accounts().await?, world.accounts_on_pbx().await?);
        println!(
            "{step:?}: the crash has undone the step: {}",
            live != on_pbx
        );
        world.settles(&format!("{step:?}")).await?;
        world.clear().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "part of `make chaos`"]
async fn a_pbx_that_was_away_gets_exactly_the_accounts_of_live_devices() -> Result<()> {
    let harness = Harness::open(0).await?;
    let world = &World::open(&harness).await?;
    for link in [LinkState::Refused, LinkState::Silent] {
        for step in Step::ALL {
            let app = world.fixture.unregistered_app("1001");
            step.prepare(world, &app).await?;
            harness.faults.switch(System::Pbx, link).await?;
            step.take(world, &app).await?;
            let (live, on_pbx) = (world.live_accounts().await?, world.accounts_on_pbx().await?);
            assert_ne!(live, on_pbx, "{step:?}: the PBX was not away");
            harness.faults.switch(System::Pbx, LinkState::Open).await?;
            world.settles(&format!("{step:?}, {link:?}")).await?;
            world.clear().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_reaches_a_device_after_its_pbx_has_restarted_with_an_empty_database() -> Result<()>
{
    let harness = Harness::open(0).await?;
    let world = &World::open(&harness).await?;
    world.run_scheduled_function().await?;
    let [app, other] = ["1001", "1001"].map(|extension| world.fixture.unregistered_app(extension));
    let account = SipAccount::of(&app).await?;
    register(&other, true).await?;
    let mut phone = account.phone(world.fixture, 0, false).await?;
    phone.register().await?;
    pbx::crash_and_lose_database(world.fixture).await?;
    let (caller, id) = app.is_called().await?;
    // The push wakes the app, which registers its phone.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
    while let Err(error) = phone.register().await {
        ensure!(tokio::time::Instant::now() < deadline, "{error}");
    }
    let (status, answer) = app.respond("accept_ready", &id).await?;
    ensure!(status.is_success(), "{status}: {answer}");
    let called = phone.next_call(SOON).await?;
    called.answer().await?;
    caller.answered(SOON).await?;
    called.media().hears(caller.media(), SOON).await?;
    caller.media().hears(called.media(), SOON).await?;
    caller.hang_up().await?;
    world.settles("an empty database").await?;
    world.clear().await
}
