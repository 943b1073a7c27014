//! A region's table and its stream, over the JSON protocol of DynamoDB, which lets items pass through unchanged.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Client;
use serde_json::{Map, Value, json};

use super::table_state::{ItemKey, StreamRecord};
use crate::cloud::region::Region;

/// The timeout of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Table {
    region: Region,
    name: String,
    http: Client,
    /// The shard iterator for the next read.
    iterator: String,
}

impl Table {
    /// Opens the table, with its stream at the beginning.
    pub(super) async fn open(region: Region, name: &str) -> Result<Self> {
        let http = Client::builder().timeout(REQUEST_TIMEOUT).build()?;
        let mut table = Self {
            region,
            name: name.to_owned(),
            http,
            iterator: String::new(),
        };
        let described = table
            .request(
                "DynamoDB_20120810.DescribeTable",
                json!({ "TableName": name }),
            )
            .await?;
        let arn = &described["Table"]["LatestStreamArn"];
        let stream = table
            .request(
                "DynamoDBStreams_20120810.DescribeStream",
                json!({ "StreamArn": arn }),
            )
            .await?;
        // The local AWS has exactly one shard per stream.
        let shard = &stream["StreamDescription"]["Shards"][0]["ShardId"];
        let from_the_beginning =
            json!({ "StreamArn": arn, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON" });
        let answer = table
            .request(
                "DynamoDBStreams_20120810.GetShardIterator",
                from_the_beginning,
            )
            .await?;
        table.iterator = text(&answer["ShardIterator"])?;
        Ok(table)
    }

    pub(super) const fn region(&self) -> Region {
        self.region
    }

    /// The new records of the stream.
    pub(super) async fn records(&mut self) -> Result<Vec<StreamRecord>> {
        let request = json!({ "ShardIterator": self.iterator });
        let answer = self
            .request("DynamoDBStreams_20120810.GetRecords", request)
            .await?;
        let records = answer["Records"]
            .as_array()
            .context("the answer has no records")?;
        let records = records.iter().map(record).collect::<Result<_>>()?;
        self.iterator = text(&answer["NextShardIterator"])?;
        Ok(records)
    }

    /// Writes or deletes an item, on condition that it still has the `current` image. Returns whether the condition
    /// held.
    pub(super) async fn replace(
        &self,
        key: &ItemKey,
        current: Option<&Value>,
        image: Option<&Value>,
    ) -> Result<bool> {
        let mut request = unchanged_condition(current)?;
        request.insert("TableName".to_owned(), json!(self.name));
        let operation = match image {
            Some(item) => {
                request.insert("Item".to_owned(), item.clone());
                "DynamoDB_20120810.PutItem"
            }
            None => {
                let key = json!({ "pk": { "S": key.pk }, "sk": { "S": key.sk } });
                request.insert("Key".to_owned(), key);
                "DynamoDB_20120810.DeleteItem"
            }
        };
        let (status, answer) = self.send(operation, Value::Object(request)).await?;
        if status.is_success() {
            return Ok(true);
        }
        let error = answer["__type"].as_str().unwrap_or_default();
        if error.ends_with("ConditionalCheckFailedException") {
            return Ok(false);
        }
        bail!("{operation} in {}: {status} {answer}", self.region.name)
    }

    async fn request(&self, operation: &str, body: Value) -> Result<Value> {
        let (status, answer) = self.send(operation, body).await?;
        if !status.is_success() {
            bail!("{operation} in {}: {status} {answer}", self.region.name);
        }
        Ok(answer)
    }

    async fn send(&self, operation: &str, body: Value) -> Result<(reqwest::StatusCode, Value)> {
        let region = self.region.name;
        let answer = self
            .http
            .post(self.region.endpoint())
            .header("x-amz-target", operation)
            .header("content-type", "application/x-amz-json-1.0")
            // The local AWS reads only the region from the header, and does not check the signature.
            .header(
                "authorization",
                format!("AWS4-HMAC-SHA256 Credential=local/20261121/{region}/dynamodb/aws4_request, SignedHeaders=host, Signature=0"),
            )
            .body(body.to_string())
            .send()
            .await?;
        let status = answer.status();
        Ok((status, answer.json().await?))
    }
}

/// The condition that an item still has this image.
fn unchanged_condition(current: Option<&Value>) -> Result<Map<String, Value>> {
    let Some(item) = current else {
        let absent = json!({ "ConditionExpression": "attribute_not_exists(pk)" });
        return Ok(absent.as_object().cloned().unwrap_or_default());
    };
    let item = item.as_object().context("an item is not an object")?;
    let (mut names, mut values, mut conditions) = (Map::new(), Map::new(), Vec::new());
    for (number, (name, value)) in item.iter().enumerate() {
        names.insert(format!("#n{number}"), json!(name));
        values.insert(format!(":v{number}"), value.clone());
        conditions.push(format!("#n{number} = :v{number}"));
    }
    Ok(Map::from_iter([
        (
            "ConditionExpression".to_owned(),
            json!(conditions.join(" AND ")),
        ),
        ("ExpressionAttributeNames".to_owned(), Value::Object(names)),
        (
            "ExpressionAttributeValues".to_owned(),
            Value::Object(values),
        ),
    ]))
}

fn record(record: &Value) -> Result<StreamRecord> {
    let change = &record["dynamodb"];
    let part = |name: &str| text(&change["Keys"][name]["S"]);
    // DynamoDB reports the time in whole seconds. The local AWS starts the sequence number with the time in
    // milliseconds.
    let number = text(&change["SequenceNumber"])?;
    let at_ms = number
        .get(..20)
        .and_then(|digits| digits.parse().ok())
        .with_context(|| format!("unexpected sequence number: {number}"))?;
    Ok(StreamRecord {
        key: ItemKey {
            pk: part("pk")?,
            sk: part("sk")?,
        },
        at_ms,
        image: change.get("NewImage").cloned(),
    })
}

fn text(value: &Value) -> Result<String> {
    let text = value
        .as_str()
        .with_context(|| format!("not a string: {value}"))?;
    Ok(text.to_owned())
}
