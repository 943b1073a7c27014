//! Public prices in US dollars for US East (N. Virginia), the region in all sources, without free tiers and volume discounts.
//! Prices of other regions differ by some per cent.

/// The date of the prices.
pub const AS_OF: &str = "2026-11-21";

/// A price and its source.
#[derive(Clone, Copy, Debug)]
pub struct Price {
    /// The item on the price list.
    pub item: &'static str,
    /// Dollars for `per` units.
    pub dollars: f64,
    /// Number of units.
    pub per: f64,
    /// URL of the source.
    pub source: &'static str,
}

impl Price {
    /// Dollars per unit.
    #[must_use]
    pub const fn each(&self) -> f64 {
        self.dollars / self.per
    }
}

const fn price(item: &'static str, dollars: f64, per: f64, source: &'static str) -> Price {
    Price {
        item,
        dollars,
        per,
        source,
    }
}

const MILLION: f64 = 1_000_000.0;

/// An invocation.
pub const LAMBDA_REQUEST: Price = price(
    "Lambda, an invocation",
    0.20,
    MILLION,
    "https://aws.amazon.com/lambda/pricing/",
);
/// Duration of an invocation.
pub const LAMBDA_GB_SECOND: Price = price(
    "Lambda, a GB-second on arm64",
    0.000_013_333_4,
    1.0,
    "https://cloudchipr.com/blog/aws-lambda-pricing",
);
/// A request to the HTTP API.
pub const HTTP_REQUEST: Price = price(
    "API Gateway, a request to an HTTP API",
    1.00,
    MILLION,
    "https://amnic.com/blogs/aws-api-gateway-pricing",
);
/// A message to or from a WebSocket client.
pub const WEBSOCKET_MESSAGE: Price = price(
    "API Gateway, a WebSocket message",
    1.00,
    MILLION,
    "https://amnic.com/blogs/aws-api-gateway-pricing",
);
/// A minute of a WebSocket connection.
pub const WEBSOCKET_MINUTE: Price = price(
    "API Gateway, a minute of a WebSocket connection",
    0.25,
    MILLION,
    "https://amnic.com/blogs/aws-api-gateway-pricing",
);
/// A write request unit.
pub const WRITE_UNIT: Price = price(
    "DynamoDB on demand, a write request unit",
    0.625,
    MILLION,
    "https://airbyte.com/data-engineering-resources/dynamodb-pricing",
);
/// A read request unit.
pub const READ_UNIT: Price = price(
    "DynamoDB on demand, a read request unit",
    0.125,
    MILLION,
    "https://airbyte.com/data-engineering-resources/dynamodb-pricing",
);
/// A request to a standard queue.
pub const SQS_REQUEST: Price = price(
    "SQS, a request",
    0.40,
    MILLION,
    "https://cloudburn.io/blog/amazon-sqs-pricing",
);
/// A schedule that fires. Creating and deleting one is free.
pub const SCHEDULE_FIRED: Price = price(
    "EventBridge Scheduler, a schedule that fires",
    1.00,
    MILLION,
    "https://cloudburn.io/blog/amazon-eventbridge-pricing",
);
/// A month of a secret.
pub const SECRET_MONTH: Price = price(
    "Secrets Manager, a secret for a month",
    0.40,
    1.0,
    "https://hivebook.wiki/wiki/aws-secrets-manager-rotated-secrets-dynamic-db-credentials-kms",
);
/// A fetch of a secret.
pub const SECRET_FETCHED: Price = price(
    "Secrets Manager, a fetch",
    0.05,
    10_000.0,
    "https://hivebook.wiki/wiki/aws-secrets-manager-rotated-secrets-dynamic-db-credentials-kms",
);
/// A GB of logs.
pub const LOGGED_GB: Price = price(
    "CloudWatch Logs, a GB ingested",
    0.50,
    1.0,
    "https://www.duckbillgroup.com/?p=9080",
);
/// A small server for Express.
pub const RENDER_STARTER: Price = price(
    "Render, a Starter instance (0.5 CPU) for a month",
    7.0,
    1.0,
    "https://community.render.com/t/how-the-starter-plan-billing-works/5297",
);
/// A server for Express with a whole core.
pub const RENDER_STANDARD: Price = price(
    "Render, a Standard instance (1 CPU, 2 GB) for a month",
    25.0,
    1.0,
    "https://www.craftedbyhan.xyz/blog/render-prorated-billing",
);

/// All prices.
pub const ALL: [Price; 14] = [
    LAMBDA_REQUEST,
    LAMBDA_GB_SECOND,
    HTTP_REQUEST,
    WEBSOCKET_MESSAGE,
    WEBSOCKET_MINUTE,
    WRITE_UNIT,
    READ_UNIT,
    SQS_REQUEST,
    SCHEDULE_FIRED,
    SECRET_MONTH,
    SECRET_FETCHED,
    LOGGED_GB,
    RENDER_STARTER,
    RENDER_STANDARD,
];
