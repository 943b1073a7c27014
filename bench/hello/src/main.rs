//! The least that a function in Rust can be: what the bench holds the others against.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let hello = async |_event: LambdaEvent<Value>| Ok::<_, Error>(json!({ "hello": "world" }));
    lambda_runtime::run(service_fn(hello)).await
}
