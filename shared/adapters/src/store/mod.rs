//! The DynamoDB table: one module for each kind of item. [`table`] is the way to it for all of them.

pub mod allowance;
pub mod call_lists;
pub mod calls;
pub mod connections;
pub mod devices;
pub mod directories;
pub mod live_calls;
pub mod missed_calls;
pub mod number_routes;
pub mod post_budget;
pub mod ring_reports;
pub mod sip_accounts;
pub mod streams;
pub mod table;

pub use table::{StoreError, Table};
