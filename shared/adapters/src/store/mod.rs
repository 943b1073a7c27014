//! The DynamoDB table: one module for each kind of item.

pub mod allowance;
pub mod calls;
pub mod connections;
pub mod devices;
pub mod number_routes;
pub mod posts;
pub mod streams;

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The table did not answer, or not in time. Trying again may help.
    #[error("while {doing}: the table could not be reached")]
    Unavailable {
        /// The operation.
        doing: &'static str,
        /// The error of the client.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// This code cannot read an item, or cannot write a value as one.
    #[error("while {doing}: an item is malformed")]
    Unreadable {
        /// The operation.
        doing: &'static str,
        /// What is wrong with the item.
        #[source]
        source: serde_dynamo::Error,
    },
}

impl StoreError {
    /// For `map_err`: the client's error, and the operation.
    pub(crate) fn unavailable<E>(doing: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| Self::Unavailable {
            doing,
            source: source.into(),
        }
    }

    /// For `map_err`: an item that could not be read or written.
    pub(crate) fn unreadable(doing: &'static str) -> impl FnOnce(serde_dynamo::Error) -> Self {
        move |source| Self::Unreadable { doing, source }
    }
}
