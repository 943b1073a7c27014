//! Messages that no function can process: they do not block others, and end in a dead-letter queue.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_sqs::Client;
use ringback_local::faults::rule::{Fault, Moment, Rule, System};
use ringback_local::settings::STACK_NAME;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::play::{End, Scenario, play, play_while, ring};
use crate::stage::Stage;

/// Ten deliveries, 15 s apart, and the overhead of the local cloud.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(10 * 15 + 40);
/// The stream's `MaximumRecordAgeInSeconds`, and a margin.
const NO_NEWS_AFTER: Duration = Duration::from_secs(60 + 40);
const LOOKS_EVERY: Duration = Duration::from_secs(1);
/// The name of the fault rule.
const POISON: &str = "a-change-that-kills";
const GRACE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: part of `make chaos`"]
async fn a_timer_that_nobody_can_read_stops_no_other_and_is_found_among_the_dead() -> Result<()> {
    let stage = Stage::open(2).await?;
    let queues = Client::new(&stage.fixture.aws);
    let queue = url(&queues, "call-timeout").await?;
    let dead = url(&queues, "call-timeout-dead").await?;
    queues.purge_queue().queue_url(&dead).send().await?;
    let poison = format!("no timer at all {}", uuid::Uuid::new_v4());
    let began = Instant::now();
    queues
        .send_message()
        .queue_url(&queue)
        .message_body(&poison)
        .send()
        .await?;
    while began.elapsed() < GIVEN_UP_WITHIN {
        let played = play(&stage, Scenario::NobodyAnswers, &[]).await?;
        ensure!(
            played.end == End::Busy
                && played.problems.is_empty()
                && played.counted() < ring() + GRACE,
            "beside the poison: {played}"
        );
        if received(&queues, &dead).await?.contains(&poison) {
            return Ok(());
        }
    }
    anyhow::bail!("it is still being delivered")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: part of `make chaos`"]
async fn a_change_that_nobody_can_be_told_of_is_given_up_and_found_among_the_dead() -> Result<()> {
    let stage = Stage::open(2).await?;
    let queues = Client::new(&stage.fixture.aws);
    let dead = url(&queues, "broadcast-dead").await?;
    queues.purge_queue().queue_url(&dead).send().await?;
    let deadly = Rule {
        system: System::Aws,
        operation: Some("connections POST".to_owned()),
        function: Some("broadcast".to_owned()),
        // Not bound to a play, because the rule must outlive the play.
        play: None,
        skip: 0,
        times: None,
        one_in: None,
        fault: Fault::Kill(Moment::Before),
    };
    stage.faults.make(POISON, &deadly).await?;
    let began = Instant::now();
    let poisoned = {
        let stage = Arc::clone(&stage);
        let call = async move { play_while(&stage, Scenario::CallerGivesUp, &[], true).await };
        tokio::spawn(call)
    };
    let found = loop {
        let bodies = received(&queues, &dead).await?;
        if !bodies.is_empty() || began.elapsed() > NO_NEWS_AFTER {
            break bodies;
        }
        sleep(LOOKS_EVERY).await;
    };
    stage.faults.drop_rule(POISON).await?;
    let body = found.first().context("nothing among the dead")?;
    let told: Value = serde_json::from_str(body)?;
    ensure!(
        told["DDBStreamBatchInfo"]["streamArn"].is_string(),
        "{told}"
    );
    let poisoned = poisoned.await??;
    ensure!(
        poisoned.end == End::GaveUp,
        "the call itself is untouched: {poisoned}"
    );
    let next = play(&stage, Scenario::CallerGivesUp, &[]).await?;
    ensure!(next.problems.is_empty(), "after the poison: {next}");
    Ok(())
}

async fn url(queues: &Client, name: &str) -> Result<String> {
    let name = format!("{STACK_NAME}-{name}");
    let found = queues.get_queue_url().queue_name(&name).send().await?;
    found.queue_url.context(name)
}

/// Receives the messages in a queue.
async fn received(queues: &Client, url: &str) -> Result<Vec<String>> {
    let answer = queues
        .receive_message()
        .queue_url(url)
        .max_number_of_messages(10)
        .send()
        .await?;
    let messages = answer.messages.unwrap_or_default();
    Ok(messages
        .into_iter()
        .filter_map(|message| message.body)
        .collect())
}
