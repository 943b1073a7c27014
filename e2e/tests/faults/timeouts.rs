//! Faults that end only after a timeout of another system, of a minute or more. They wait at the same time.

use anyhow::Result;

use crate::harness::Harness;
use crate::queues::{
    a_change_that_cannot_be_broadcast_is_dropped_into_the_dead_letter_queue,
    an_unreadable_timer_blocks_no_other_and_ends_in_the_dead_letter_queue,
};
use crate::silence::a_phone_without_network_is_hung_up_and_other_calls_continue;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: part of `make chaos`"]
async fn lost_phones_and_unreadable_messages_affect_no_other_call() -> Result<()> {
    let harness = Harness::open(5).await?;
    let messages = async {
        a_change_that_cannot_be_broadcast_is_dropped_into_the_dead_letter_queue(&harness).await?;
        an_unreadable_timer_blocks_no_other_and_ends_in_the_dead_letter_queue(&harness).await
    };
    let phone = a_phone_without_network_is_hung_up_and_other_calls_continue(&harness);
    // Not `try_join!`, so that the faults end even if the other part fails.
    let (phone, messages) = tokio::join!(phone, messages);
    phone.and(messages)
}
