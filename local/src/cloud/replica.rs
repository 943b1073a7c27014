//! Creates the replica of the table in the second region, as a DynamoDB global table does: same name, same schema.

use anyhow::{Context, Result};
use aws_sdk_dynamodb::types::{
    BillingMode, GlobalSecondaryIndex, StreamSpecification, StreamViewType, TimeToLiveSpecification,
};

use super::region::Region;
use super::seed::aws_config;

/// Creates the table, and returns the label of its stream.
pub async fn create(source: Region, table: &str, target: Region) -> Result<String> {
    let source = aws_sdk_dynamodb::Client::new(&aws_config(source).await);
    let described = source.describe_table().table_name(table).send().await?;
    let model = described
        .table
        .context("the table of the first region does not exist")?;
    let indexes = model.global_secondary_indexes().iter().map(|index| {
        GlobalSecondaryIndex::builder()
            .set_index_name(index.index_name.clone())
            .set_key_schema(index.key_schema.clone())
            .set_projection(index.projection.clone())
            .build()
    });
    let stream = StreamSpecification::builder()
        .stream_enabled(true)
        .stream_view_type(StreamViewType::NewAndOldImages);
    let dynamodb = aws_sdk_dynamodb::Client::new(&aws_config(target).await);
    let created = dynamodb
        .create_table()
        .table_name(table)
        .billing_mode(BillingMode::PayPerRequest)
        .set_attribute_definitions(model.attribute_definitions.clone())
        .set_key_schema(model.key_schema.clone())
        .set_global_secondary_indexes(Some(indexes.collect::<Result<_, _>>()?))
        .stream_specification(stream.build()?)
        .send()
        .await?;
    let ttl = TimeToLiveSpecification::builder()
        .attribute_name("expires_at")
        .enabled(true);
    dynamodb
        .update_time_to_live()
        .table_name(table)
        .time_to_live_specification(ttl.build()?)
        .send()
        .await?;
    created
        .table_description
        .and_then(|table| table.latest_stream_label)
        .context("the replica has no stream")
}
