//! The DynamoDB call store on the stack's table passes the same tests as the memory store.

use anyhow::Result;
use ringback::store::calls::{DynamoCallStore, contract_tests};

use crate::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn the_dynamodb_store_passes_all_contract_tests() -> Result<()> {
    let scene = Scene::open().await?;
    let client = aws_sdk_dynamodb::Client::new(&scene.aws);
    let store = DynamoCallStore::new(client, scene.stack.aws.table.clone());
    contract_tests::run_all(&store).await;
    Ok(())
}
