//! Where calls are kept: [`DynamoCallStore`] on AWS, [`MemoryCallStore`] in tests. One suite of tests holds both to the same
//! behaviour.

#[cfg(any(test, feature = "testing"))]
pub mod contract_tests;
mod dynamodb;
mod expressions;
mod memory;

use std::future::Future;
use std::time::Duration;

pub use dynamodb::{DynamoCallStore, stored_in};
pub use memory::MemoryCallStore;
use ringback_core::call::{Call, ConditionalUpdate, CorrelationKey};
use ringback_core::ids::{CallId, CallSid, Extension};
use ringback_core::timestamp::Timestamp;

pub use super::StoreError;
use super::allowance::{Allowance, Purpose};

/// Keeps calls.
pub trait CallStore {
    /// Stores a new call, unless it is stored already, and claims its correlation key while it rings.
    fn create(
        &self,
        call: &Call,
        claim: Option<&CorrelationClaim>,
    ) -> impl Future<Output = Result<CreateResult, StoreError>> + Send;

    /// Takes a token for a call out of an allowance. The same call again takes no second token, as long as no other call was asked
    /// for.
    fn take_allowance(
        &self,
        call: CallId,
        request: &AllowanceRequest,
        now: Timestamp,
    ) -> impl Future<Output = Result<AllowanceResult, StoreError>> + Send;

    /// Saves a change if its conditions hold: one conditional write, which answers with the call as it is then.
    fn update(
        &self,
        id: CallId,
        update: &ConditionalUpdate,
    ) -> impl Future<Output = Result<UpdateResult, StoreError>> + Send;

    /// The pauses after which to look again for a call that may still be on its way from the other region. Empty if there is one
    /// region. An app waits for one call at a time (`extension`): requests with made-up ids must not occupy a process each.
    fn replication_pauses(
        &self,
        _extension: Option<&Extension>,
        _now: Timestamp,
    ) -> impl Future<Output = Result<&'static [Duration], ReplicationWaitError>> + Send {
        async { Ok::<&[Duration], _>(&[]) }
    }

    /// How many active calls the apps of this extension have started, counted up to `at_most`. Eventually consistent: a call that
    /// was stored or ended within the last second may be counted wrongly.
    fn count_live(
        &self,
        extension: &Extension,
        at_most: u32,
        now: Timestamp,
    ) -> impl Future<Output = Result<u32, StoreError>> + Send;

    /// The call as it is.
    fn find(&self, id: CallId) -> impl Future<Output = Result<Option<Call>, StoreError>> + Send;

    /// The call that claimed this key last, whether or not it still rings.
    fn find_by_correlation_key(
        &self,
        key: &CorrelationKey,
    ) -> impl Future<Output = Result<Option<CallId>, StoreError>> + Send;

    /// Lets the call be found by its CallSid, if it has one. Repeating it changes nothing.
    fn index_by_sid(&self, call: &Call) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// All calls with this CallSid, or those that call `extension`.
    fn find_by_sid(
        &self,
        sid: &CallSid,
        extension: Option<&Extension>,
    ) -> impl Future<Output = Result<Vec<CallId>, StoreError>> + Send;

    /// Lets `alias` stand for `id` in all other operations. Returns whether it does: an id that is a call's, or stands for another
    /// call, keeps its meaning.
    fn add_alias(
        &self,
        alias: CallId,
        id: CallId,
        expires_at: u64,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

/// Looks for a call, and again after each pause while it may still be on its way from the other region.
///
/// # Errors
/// Those of `look`, and [`ReplicationWaitError`].
pub async fn find_when_replicated<T, E, F>(
    store: &impl CallStore,
    extension: Option<&Extension>,
    now: Timestamp,
    look: impl Fn() -> F,
) -> Result<Option<T>, E>
where
    E: From<ReplicationWaitError>,
    F: Future<Output = Result<Option<T>, E>>,
{
    let mut found = look().await?;
    if found.is_none() {
        for pause in store.replication_pauses(extension, now).await? {
            tokio::time::sleep(*pause).await;
            found = look().await?;
            if found.is_some() {
                break;
            }
        }
    }
    Ok(found)
}

/// A call's claim to be the one that a correlation key stands for, while it rings.
#[derive(Clone, Debug)]
pub struct CorrelationClaim {
    /// The key.
    pub key: CorrelationKey,
    /// The time of the claim. It replaces a claim that has expired before.
    pub now: Timestamp,
    /// A call that has ended, whose claim this one replaces.
    pub instead_of: Option<CallId>,
}

impl CorrelationClaim {
    /// Whether the key stays with `holder` when the call `id` makes this claim. The holder's claim ends at `until`.
    #[must_use]
    pub fn leaves_key_to(&self, holder: CallId, until: Timestamp, id: CallId) -> bool {
        until > self.now && holder != id && Some(holder) != self.instead_of
    }
}

/// The pauses after which to look again for a call that the other region may have stored (3 s in all). Replication takes about a
/// second.
pub const PAUSES_FOR_REPLICATION: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(600),
    Duration::from_millis(800),
    Duration::from_millis(900),
];

/// Which allowance a call is taken from.
#[derive(Clone, Debug)]
pub struct AllowanceRequest {
    /// The extension whose app starts the call.
    pub extension: Extension,
    /// Which of its allowances.
    pub purpose: Purpose,
    /// The allowance.
    pub allowance: Allowance,
}

/// How a new call was stored.
#[derive(Debug)]
pub enum CreateResult {
    /// It is new.
    New,
    /// It was stored before, and is this now.
    Existing(Box<Call>),
    /// This other call holds its correlation key.
    KeyHeldBy(CallId),
}

/// Whether a call may be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllowanceResult {
    /// It may.
    Granted,
    /// It was granted before.
    GrantedBefore,
    /// The allowance is used up. The next call may be started after this time.
    Exhausted(Duration),
}

/// Why Ringback does not wait for a call that is not in this region.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationWaitError {
    /// Its extension waits for a call already. It may wait again after this time.
    #[error("the call is not in this region yet, and the extension waits for one already")]
    WaitsAlready(Duration),
    /// The table did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How a change was saved.
#[derive(Debug)]
pub enum UpdateResult {
    /// The call as it is now.
    Saved(Call),
    /// A condition did not hold. The call as it is, if there is one.
    Rejected(Option<Call>),
}
