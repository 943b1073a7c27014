//! The store of calls on the stack's own table keeps the promises that its twin in memory keeps.

use anyhow::Result;
use ringback::store::calls::{DynamoCallStore, promises};

use crate::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn dynamodb_keeps_every_promise() -> Result<()> {
    let scene = Scene::open().await?;
    let client = aws_sdk_dynamodb::Client::new(&scene.aws);
    promises::all(&DynamoCallStore::new(client, scene.stack.aws.table.clone())).await;
    Ok(())
}
