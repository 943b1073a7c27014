//! The DynamoDB store passes the same tests as the in-memory store.

use anyhow::Result;
use ringback::store::Table;
use ringback::store::calls::{DynamoCallStore, contract_tests};
use ringback_e2e::fixture::Fixture;
use ringback_local::cloud::replica;

#[tokio::test(flavor = "multi_thread")]
async fn the_dynamodb_store_passes_all_contract_tests() -> Result<()> {
    let fixture = Fixture::open().await?;
    let client = aws_sdk_dynamodb::Client::new(&fixture.aws);
    // A table without a stream: in the stack's own table, these calls would time out during later tests.
    let name = format!("ringback-contract-{}", uuid::Uuid::new_v4().simple());
    replica::copy_schema(&client, &fixture.stack.aws.table, &client, &name, None).await?;
    let table = Table::new(client.clone(), name.as_str());
    contract_tests::run_all(&DynamoCallStore::new(table)).await;
    client.delete_table().table_name(name).send().await?;
    Ok(())
}
