//! The DynamoDB store passes the same tests as the in-memory store.

use anyhow::Result;
use ringback::store::Table;
use ringback::store::calls::{DynamoCallStore, contract_tests};

use ringback_e2e::fixture::Fixture;

#[tokio::test(flavor = "multi_thread")]
async fn the_dynamodb_store_passes_all_contract_tests() -> Result<()> {
    let fixture = Fixture::open().await?;
    let client = aws_sdk_dynamodb::Client::new(&fixture.aws);
    let table = Table::new(client, fixture.stack.aws.table.as_str());
    contract_tests::run_all(&DynamoCallStore::new(table)).await;
    Ok(())
}
