//! Creates tables with the schema of the deployed one.

use anyhow::{Context, Result};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    BillingMode, GlobalSecondaryIndex, StreamSpecification, StreamViewType, TimeToLiveSpecification,
};

use super::region::Region;
use super::seed::aws_config;

/// Creates the replica of the table in the second region, as a DynamoDB global table does: same name, same schema. Returns the
/// label of its stream.
pub async fn create(source: Region, table: &str, target: Region) -> Result<String> {
    let source = Client::new(&aws_config(source).await);
    let target = Client::new(&aws_config(target).await);
    let stream = StreamSpecification::builder()
        .stream_enabled(true)
        .stream_view_type(StreamViewType::NewAndOldImages);
    let label = copy_schema(&source, table, &target, table, Some(stream.build()?)).await?;
    let ttl = TimeToLiveSpecification::builder()
        .attribute_name("expires_at")
        .enabled(true);
    target
        .update_time_to_live()
        .table_name(table)
        .time_to_live_specification(ttl.build()?)
        .send()
        .await?;
    label.context("the replica has no stream")
}

/// Creates an empty table with the keys and indexes of another one. Returns the label of its stream, if it has one.
pub async fn copy_schema(
    source: &Client,
    table: &str,
    target: &Client,
    new_table: &str,
    stream: Option<StreamSpecification>,
) -> Result<Option<String>> {
    let described = source.describe_table().table_name(table).send().await?;
    let model = described
        .table
        .with_context(|| format!("the table {table} does not exist"))?;
    let indexes = model.global_secondary_indexes().iter().map(|index| {
        GlobalSecondaryIndex::builder()
            .set_index_name(index.index_name.clone())
            .set_key_schema(index.key_schema.clone())
            .set_projection(index.projection.clone())
            .build()
    });
    let created = target
        .create_table()
        .table_name(new_table)
        .billing_mode(BillingMode::PayPerRequest)
        .set_attribute_definitions(model.attribute_definitions.clone())
        .set_key_schema(model.key_schema.clone())
        .set_global_secondary_indexes(Some(indexes.collect::<Result<_, _>>()?))
        .set_stream_specification(stream)
        .send()
        .await?;
    Ok(created
        .table_description
        .and_then(|table| table.latest_stream_label))
}
