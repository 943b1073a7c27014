//! Broadcasts to ten, sixty and six hundred connected clients: all are reached, in time and with little memory.
//! Real clients and the real functions; the local stack must be running.

mod client_group;

use ringback::platform::clock;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aws_sdk_dynamodb::types::AttributeValue::S;
use aws_sdk_dynamodb::types::Select;
use client_group::{ClientGroup, GroupMember};
use reqwest::StatusCode;
use ringback::auth::Viewer;
use ringback::store::connections::{Connection, Connections};
use ringback_client::Client;
use ringback_core::ids::Extension;
use ringback_core::timestamp::Timestamp;
use ringback_e2e::fixture::{CALLER, Fixture, SOON};
use ringback_e2e::log_lines::log_lines;
use ringback_e2e::memory::ProcessMemory;
use ringback_e2e::observed_function::{ObservedFunction, example};
use ringback_sip::Phone;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// The largest is more than the function reads at a time (`PAGE` in `store/connections.rs`).
const SIZES: [usize; 3] = [10, 60, 600];
const STATUSES: [&str; 3] = ["ringing", "in-progress", "completed"];
const MASKED_CALLER: &str = "***********10";

/// How many clients may be disconnecting, and how long all of them may take.
const AT_ONCE: usize = 64;
const LEAVING: Duration = Duration::from_secs(60);
/// The maximum time until all clients have one status update. It takes a tenth of that here, and a ring is not much
/// longer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Ten times as many clients may take this many times as long. Quadratic cost would be a factor of a hundred.
const GROWTH: u32 = 30;
/// The memory of the function's process per client, in bytes. It must not keep a page of clients, let alone all.
const MEMORY_OF_A_CLIENT: u64 = 32 * 1_024;

#[tokio::test(flavor = "multi_thread")]
async fn six_hundred_clients_receive_every_change_once_and_in_order() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut phone = fixture.registered_phone("1001").await?;
    let mut group = ClientGroup::of(&fixture.stack)?;
    // This client stays connected and never reads.
    let _frozen = connect(&fixture).await?;
    let rounds = rounds(&fixture, &mut phone, &mut group).await;
    let left = leave(&fixture, group).await;
    let rounds = rounds?;
    left?;
    std::io::stdout().write_all(table(&rounds)?.as_bytes())?;

    let [_, fewer, more] = rounds.as_slice() else {
        bail!("a round is missing")
    };
    ensure!(
        more.last() < GROWTH * fewer.last(),
        "{:?} for ten times as many clients as in {:?}",
        more.last(),
        fewer.last()
    );
    let of_a_client = more.memory_of_a_client().unwrap_or_default();
    ensure!(
        of_a_client < MEMORY_OF_A_CLIENT,
        "{of_a_client} B for each client"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_update_that_cannot_be_sent_is_repeated_for_a_minute_only() -> Result<()> {
    let fixture = Fixture::open().await?;
    let no_table = [("TABLE_NAME", "no-such-table")];
    let mut function = ObservedFunction::start_with(&fixture, "broadcast", &no_table).await?;
    for (age, is_repeated) in [(0, true), (50_000, true), (61_000, false)] {
        let mut change = example("broadcast-status")?;
        let record = &mut change["Records"][0]["dynamodb"];
        let history = record["NewImage"]["history"]["L"].as_array_mut();
        let last = history.and_then(|history| history.last_mut());
        let at = clock::now().as_millis() - age;
        last.context("no history")?["M"]["at"]["N"] = at.to_string().into();
        let position = record["SequenceNumber"].clone();
        let answer = function.answer_to(&change).await?;
        let failed = json!({ "itemIdentifier": position });
        let failures = if is_repeated {
            json!([failed])
        } else {
            json!([])
        };
        assert_eq!(answer["batchItemFailures"], failures, "{age} ms");
    }
    Ok(())
}

/// A call at each number of clients, and one more at the largest number.
async fn rounds(
    fixture: &Fixture,
    phone: &mut Phone,
    group: &mut ClientGroup,
) -> Result<Vec<Round>> {
    let mut rounds = Vec::new();
    for size in SIZES {
        let began = Instant::now();
        group.grow_to(size).await?;
        let connected_in = began.elapsed();
        let round = answered_call(fixture, phone, group).await?;
        rounds.push(Round {
            connected_in,
            ..round
        });
    }
    abandoned_call(fixture, group).await?;
    Ok(rounds)
}

/// The results of one call with this many clients.
struct Round {
    clients: usize,
    connected_in: Duration,
    changes: Vec<Change>,
    before: Option<ProcessMemory>,
    after: Option<ProcessMemory>,
}

/// One status update: the delivery time of each client, shortest first.
struct Change {
    status: &'static str,
    took: Vec<Duration>,
}

impl Round {
    /// The mean time until the last client was reached.
    fn last(&self) -> Duration {
        let sum: Duration = self.changes.iter().map(|change| change.at(1.0)).sum();
        sum / u32::try_from(self.changes.len()).unwrap_or(1)
    }

    /// In bytes; `None` if the process was replaced.
    fn memory_of_a_client(&self) -> Option<u64> {
        let grown = self.after?.peak.checked_sub(self.before?.peak)?;
        Some(grown * 1_024 / u64::try_from(self.clients).ok()?)
    }
}

impl Change {
    /// The time until this share of the clients was reached.
    fn at(&self, share: f64) -> Duration {
        let last = self.took.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "a share of some hundreds"
        )]
        let index = (last as f64 * share).round() as usize;
        self.took.get(index).copied().unwrap_or_default()
    }
}

/// A call that is answered and hung up. Each step waits until all clients have the previous status. One client has
/// died without closing its connection, and one connection item is left from a client that is gone.
async fn answered_call(
    fixture: &Fixture,
    phone: &mut Phone,
    group: &mut ClientGroup,
) -> Result<Round> {
    drop(connect(fixture).await?);
    let left = create_stale_connection(fixture).await?;
    let app = fixture.app("1001").await?;
    let before = ProcessMemory::of_function("broadcast");

    let (caller, id) = app.is_called().await?;
    let mut took = vec![group.hears(&id, STATUSES[0], TIMEOUT).await?];
    let (status, answer) = app.respond("accept_ready", &id).await?;
    ensure!(status == StatusCode::OK, "{status}: {answer}");
    let callee = phone.next_call(SOON).await?;
    callee.answer().await?;
    caller.answered(SOON).await?;
    took.push(group.hears(&id, STATUSES[1], TIMEOUT).await?);
    let hung_up_at = clock::now();
    caller.hang_up().await?;
    took.push(group.hears(&id, STATUSES[2], TIMEOUT).await?);
    group.settles(Duration::from_millis(500)).await;

    for member in group.members() {
        check(member, &id, &STATUSES)?;
    }
    let clients = group.members().len();
    let notified = clients_notified(fixture, hung_up_at).await?;
    // The function may still find a client that has disconnected. It counts that client as failed, like one that is connecting.
    let lines = log_lines(fixture, "broadcast").await?.into_iter();
    let mut failures = lines
        .map(|line| line.json)
        .filter(|json| json["message"] == "status update sent" && json["call_id"] == id.as_str());
    let many = failures.find(|line| line["failed"].as_u64() > Some(1));
    ensure!(many.is_none(), "{many:?}");
    ensure!(
        notified == f64::from(u32::try_from(clients + 1)?),
        "not sent to exactly these {clients} clients and the frozen one: {notified}"
    );
    ensure!(
        !is_there(fixture, &left).await?,
        "the closed connection is still stored"
    );
    app.unregister().await?;
    let changes = STATUSES.into_iter().zip(took);
    Ok(Round {
        clients,
        connected_in: Duration::ZERO,
        changes: changes
            .map(|(status, took)| Change { status, took })
            .collect(),
        before,
        after: ProcessMemory::of_function("broadcast"),
    })
}

/// A caller who hangs up while most clients have not received the first status yet.
async fn abandoned_call(fixture: &Fixture, group: &mut ClientGroup) -> Result<()> {
    let app = fixture.app("1001").await?;
    let (caller, id) = app.is_called().await?;
    caller.cancel().await?;
    group.hears(&id, "canceled", TIMEOUT).await?;
    group.settles(Duration::from_millis(500)).await;
    for member in group.members() {
        check(member, &id, &["ringing", "canceled"])?;
    }
    app.unregister().await
}

/// Checks that each status arrived once and in order, and that only participants received the caller's number.
fn check(member: &GroupMember, call: &str, statuses: &[&str]) -> Result<()> {
    let story = member.status_updates(call);
    let lines: Vec<_> = story
        .iter()
        .filter_map(|data| data["status"].as_str())
        .collect();
    ensure!(lines == statuses, "received {lines:?}");
    let from = if member.has_part() {
        CALLER
    } else {
        MASKED_CALLER
    };
    ensure!(story.iter().all(|data| data["from"] == from), "{story:?}");
    Ok(())
}

async fn connect(fixture: &Fixture) -> Result<Client> {
    let token = &fixture
        .stack
        .phone("1002")
        .context("1002 has no token")?
        .token;
    Ok(Client::connect(&fixture.stack.ws_url, token).await?)
}

fn connections(fixture: &Fixture) -> Connections {
    Connections::new(
        ringback::store::Table::new(
            aws_sdk_dynamodb::Client::new(&fixture.aws),
            fixture.stack.aws.table.as_str(),
        ),
        aws_sdk_apigatewaymanagement::Client::new(&fixture.aws),
        fixture.stack.aws.region.clone(),
    )
}

/// Creates the connection item of a client without a `$disconnect`.
async fn create_stale_connection(fixture: &Fixture) -> Result<Connection> {
    let left = Connection {
        id: format!("left-{}", uuid::Uuid::new_v4().simple()),
        viewer: Viewer::App(Extension::try_from("1002")?),
    };
    let a_minute_ago = Timestamp::from_millis(clock::now().as_millis() - 60_000);
    connections(fixture).open(&left, a_minute_ago).await?;
    Ok(left)
}

async fn is_there(fixture: &Fixture, connection: &Connection) -> Result<bool> {
    let row = aws_sdk_dynamodb::Client::new(&fixture.aws)
        .get_item()
        .table_name(&fixture.stack.aws.table)
        .key("pk", S("EXTENSION#1002".to_owned()))
        .key(
            "sk",
            S(format!(
                "CONNECTION#{}#{}",
                fixture.stack.aws.region, connection.id
            )),
        )
        .send()
        .await?;
    Ok(row.item.is_some())
}

/// The number of connection items in the table.
async fn known(fixture: &Fixture) -> Result<usize> {
    let mut known = 0;
    for phone in &fixture.stack.phones {
        let rows = aws_sdk_dynamodb::Client::new(&fixture.aws)
            .query()
            .table_name(&fixture.stack.aws.table)
            .key_condition_expression("pk = :pk AND begins_with(sk, :connection)")
            .expression_attribute_values(":pk", S(format!("EXTENSION#{}", phone.extension)))
            .expression_attribute_values(":connection", S("CONNECTION#".to_owned()))
            .select(Select::Count)
            .send()
            .await?;
        known += usize::try_from(rows.count())?;
    }
    Ok(known)
}

/// Disconnects the clients no faster than they are removed: hundreds of disconnects at once would block the local
/// cloud for a minute.
async fn leave(fixture: &Fixture, mut group: ClientGroup) -> Result<()> {
    let deadline = Instant::now() + LEAVING;
    while !group.members().is_empty() {
        let staying = group.members().len();
        let leaving = known(fixture).await?.saturating_sub(staying);
        ensure!(
            Instant::now() < deadline,
            "{leaving} closed connections are still stored"
        );
        group.leave(AT_ONCE.saturating_sub(leaving).min(staying));
        sleep(Duration::from_millis(100)).await;
    }
    group.wait_until_gone().await;
    Ok(())
}

/// The metric of the first call that has ended since then. Its line appears a little later than the update.
async fn clients_notified(fixture: &Fixture, since: Timestamp) -> Result<f64> {
    let deadline = Instant::now() + SOON;
    loop {
        let lines = log_lines(fixture, "broadcast").await?.into_iter();
        let is_later = |json: &Value| json["_aws"]["Timestamp"].as_u64() >= Some(since.as_millis());
        let later = lines.map(|line| line.json).filter(is_later);
        let mut counts = later.filter_map(|json| json["clients_notified"][0].as_f64());
        if let Some(count) = counts.next() {
            return Ok(count);
        }
        ensure!(Instant::now() < deadline, "the log has no such metric");
        sleep(Duration::from_millis(200)).await;
    }
}

fn table(rounds: &[Round]) -> Result<String> {
    let mut table =
        "\nBroadcasts: milliseconds from a change of the call until a client received it\n\n"
            .to_owned();
    writeln!(
        table,
        "{:>7}  {:<12}{:>7}{:>8}{:>7}{:>7}{:>10}",
        "clients", "status", "first", "median", "p99", "last", "per client",
    )?;
    for round in rounds {
        for change in &round.changes {
            let [first, median, p99, last] =
                [0.0, 0.5, 0.99, 1.0].map(|share| change.at(share).as_millis());
            let of_a_client = change.at(1.0).div_f64(round.clients as f64).as_secs_f64() * 1_000.0;
            writeln!(
                table,
                "{:>7}  {:<12}{first:>7}{median:>8}{p99:>7}{last:>7}{of_a_client:>10.2}",
                round.clients, change.status,
            )?;
        }
    }
    write!(
        table,
        "\nMemory of the function's process in kB. The first large number of clients creates the connections that it sends over\n\n{:>7}{:>10}{:>10}{:>10}{:>16}{:>19}\n",
        "clients", "before", "after", "peak", "bytes per client", "last client, s"
    )?;
    for round in rounds {
        let shown = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
        writeln!(
            table,
            "{:>7}{:>10}{:>10}{:>10}{:>16}{:>19.1}",
            round.clients,
            shown(round.before.map(|memory| memory.now)),
            shown(round.after.map(|memory| memory.now)),
            shown(round.after.map(|memory| memory.peak)),
            shown(round.memory_of_a_client()),
            round.connected_in.as_secs_f64()
        )?;
    }
    table.push('\n');
    Ok(table)
}
