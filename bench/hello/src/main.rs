//! The smallest possible function in Rust, for comparison.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let hello = async |_event: LambdaEvent<Value>| Ok::<_, Error>(json!({ "hello": "world" }));
    lambda_runtime::run(service_fn(hello)).await
}
