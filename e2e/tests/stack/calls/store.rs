//! The DynamoDB store keeps the same promises as the in-memory store.

use anyhow::Result;
use ringback::store::calls::{DynamoCalls, promises};

use ringback_e2e::fixture::Fixture;

#[tokio::test(flavor = "multi_thread")]
async fn dynamodb_keeps_every_promise_of_the_store() -> Result<()> {
    let fixture = Fixture::open().await?;
    let client = aws_sdk_dynamodb::Client::new(&fixture.aws);
    promises::all(&DynamoCalls::new(client, fixture.stack.aws.table.clone())).await;
    Ok(())
}
