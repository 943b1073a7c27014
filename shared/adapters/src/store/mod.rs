//! The DynamoDB table: one module for each kind of item.

pub mod allowance;
pub mod calls;
pub mod connections;
pub mod devices;
pub mod number_routes;
pub mod posts;
pub mod streams;
