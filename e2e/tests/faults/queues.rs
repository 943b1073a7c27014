//! Messages that no function can process: they do not block others, and end in a dead-letter queue.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName::VisibilityTimeout;
use ringback_local::faults::rule::{Fault, KillPoint, System};
use ringback_local::settings::STACK_NAME;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::call_run::{CallEnd, Scenario, ring, run_call, run_call_with};
use crate::faults::{from, rule};
use crate::harness::Harness;

/// The time between two deliveries of an unreadable timer. The template has 15 s, but the test need not wait for ten of
/// them.
const REDELIVERED_AFTER_SECONDS: u64 = 3;
/// Ten deliveries, and the overhead of the local cloud.
const DEAD_LETTER_WITHIN: Duration = Duration::from_secs(10 * REDELIVERED_AFTER_SECONDS + 40);
/// The stream's `MaximumRecordAgeInSeconds`, and a margin.
const STREAM_GIVES_UP_AFTER: Duration = Duration::from_secs(600 + 40);
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The name of the fault rule.
const POISON: &str = "a-change-that-kills";
const GRACE: Duration = Duration::from_secs(3);

pub(crate) async fn an_unreadable_timer_blocks_no_other_and_ends_in_the_dead_letter_queue(
    harness: &Arc<Harness>,
) -> Result<()> {
    let queues = Client::new(&harness.fixture.aws);
    let queue = url(&queues, "call-timeout").await?;
    let declared = visibility_timeout(&queues, &queue).await?;
    let seconds = REDELIVERED_AFTER_SECONDS.to_string();
    set_visibility_timeout(&queues, &queue, &seconds).await?;
    let result = an_unreadable_timer(harness, &queues, &queue).await;
    set_visibility_timeout(&queues, &queue, &declared).await?;
    result
}

async fn an_unreadable_timer(harness: &Arc<Harness>, queues: &Client, queue: &str) -> Result<()> {
    let dead = url(queues, "call-timeout-dead-letters").await?;
    queues.purge_queue().queue_url(&dead).send().await?;
    let poison = format!("not a timer {}", uuid::Uuid::new_v4());
    let began = Instant::now();
    queues
        .send_message()
        .queue_url(queue)
        .message_body(&poison)
        .send()
        .await?;
    while began.elapsed() < DEAD_LETTER_WITHIN {
        let result = run_call(harness, Scenario::NobodyAnswers, &[]).await?;
        ensure!(
            result.end == CallEnd::Busy
                && result.problems.is_empty()
                && result.counted() < ring() + GRACE,
            "while the unreadable message is queued: {result}"
        );
        if received(queues, &dead).await?.contains(&poison) {
            return Ok(());
        }
    }
    anyhow::bail!("the message is still being delivered")
}

pub(crate) async fn a_change_that_cannot_be_broadcast_is_dropped_into_the_dead_letter_queue(
    harness: &Arc<Harness>,
) -> Result<()> {
    let queues = Client::new(&harness.fixture.aws);
    let dead = url(&queues, "broadcast-dead-letters").await?;
    queues.purge_queue().queue_url(&dead).send().await?;
    // Not bound to one call, because the rule must outlive it.
    let deadly = rule(
        System::Aws,
        "connections POST",
        None,
        Fault::Kill(KillPoint::Before),
    );
    let deadly = from("broadcast", deadly);
    harness.faults.make(POISON, &deadly).await?;
    let began = Instant::now();
    let poisoned = {
        let harness = Arc::clone(harness);
        let call = async move { run_call_with(&harness, Scenario::CallerGivesUp, &[], true).await };
        tokio::spawn(call)
    };
    let found = loop {
        let bodies = received(&queues, &dead).await?;
        if !bodies.is_empty() || began.elapsed() > STREAM_GIVES_UP_AFTER {
            break bodies;
        }
        sleep(POLL_INTERVAL).await;
    };
    harness.faults.drop_rule(POISON).await?;
    let body = found.first().context("the dead-letter queue is empty")?;
    let dead_letter: Value = serde_json::from_str(body)?;
    ensure!(
        dead_letter["DDBStreamBatchInfo"]["streamArn"].is_string(),
        "{dead_letter}"
    );
    let poisoned = poisoned.await??;
    ensure!(
        poisoned.end == CallEnd::Abandoned,
        "the call itself must not be affected: {poisoned}"
    );
    let next = run_call(harness, Scenario::CallerGivesUp, &[]).await?;
    ensure!(
        next.problems.is_empty(),
        "after the crashing change: {next}"
    );
    Ok(())
}

async fn visibility_timeout(queues: &Client, url: &str) -> Result<String> {
    let asked = queues.get_queue_attributes().queue_url(url);
    let answer = asked.attribute_names(VisibilityTimeout).send().await?;
    let attributes = answer.attributes.unwrap_or_default();
    let seconds = attributes.get(&VisibilityTimeout).cloned();
    seconds.context("the queue has no visibility timeout")
}

async fn set_visibility_timeout(queues: &Client, url: &str, seconds: &str) -> Result<()> {
    let set = queues.set_queue_attributes().queue_url(url);
    set.attributes(VisibilityTimeout, seconds).send().await?;
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
