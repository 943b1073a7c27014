//! Where calls are kept. [`DynamoCalls`] on AWS; [`MemoryCalls`], its twin, in tests. One suite of promises holds
//! both to the same behaviour.

mod dynamodb;
mod memory;
#[cfg(any(test, feature = "testing"))]
pub mod promises;

use std::future::Future;
use std::time::Duration;

pub use dynamodb::{DynamoCalls, stored_in};
pub use memory::MemoryCalls;

pub use crate::store::table::StoreError;

use crate::store::allowance::{Allowance, Purpose};
use ringback_core::call::{Call, ConditionalUpdate};
use ringback_core::ids::{CallId, Extension};
use ringback_core::phone_number::PhoneNumber;
use ringback_core::timestamp::Timestamp;

/// The calls, and which of them a witness without Exotel's CallSid means.
pub trait Calls {
    /// Stores a new call, if nobody has stored it yet, and lets it be met at `meeting` while it rings.
    fn create(
        &self,
        call: &Call,
        meeting: Option<&CorrelationClaim>,
    ) -> impl Future<Output = Result<Created, StoreError>> + Send;

    /// Takes a token for a call out of one of its starter's allowances. Asking again for the same call takes no second one, as
    /// long as no other has been asked for.
    fn allow(
        &self,
        call: CallId,
        starter: &Starter,
        now: Timestamp,
    ) -> impl Future<Output = Result<Allowed, StoreError>> + Send;

    /// Saves a change if its checks hold: one conditional write, which answers with the call as it then is.
    fn attempt(
        &self,
        id: CallId,
        attempt: &ConditionalUpdate,
    ) -> impl Future<Output = Result<Saved, StoreError>> + Send;

    /// After which pauses to look again for a call that is not here, because it may be on its way from another region. None,
    /// where there is no other region. An app (`asker`) that asks for a call waits for one at a time: a token for an id that
    /// leads nowhere must not occupy a process for each request.
    fn pauses(
        &self,
        _asker: Option<&Extension>,
        _now: Timestamp,
    ) -> impl Future<Output = Result<&'static [Duration], ReplicationWaitError>> + Send {
        async { Ok::<&[Duration], _>(&[]) }
    }

    /// How many active calls this extension's apps have started, counted up to `at_most`. Eventually consistent: a call that was
    /// stored or ended within the last second may be counted wrongly.
    fn live(
        &self,
        starter: &Extension,
        at_most: u32,
        now: Timestamp,
    ) -> impl Future<Output = Result<u32, StoreError>> + Send;

    /// The call as it is.
    fn find(&self, id: CallId) -> impl Future<Output = Result<Option<Call>, StoreError>> + Send;

    /// The call that was last met at this place, whether or not it still rings.
    fn met_at(
        &self,
        place: &CorrelationKey,
    ) -> impl Future<Output = Result<Option<CallId>, StoreError>> + Send;

    /// Lets `alias` stand for `id` from now on, in all of the above. Whether it does: an id that is a call's, or stands for
    /// another call, keeps its meaning.
    fn alias(
        &self,
        alias: CallId,
        id: CallId,
        expires_at: u64,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

/// [`Calls::find`], for an app, of a call that may be on its way from another region.
///
/// # Errors
/// See [`ReplicationWaitError`].
pub async fn find_once_there(
    calls: &impl Calls,
    id: CallId,
    asker: &Extension,
    now: Timestamp,
) -> Result<Option<Call>, ReplicationWaitError> {
    let mut found = calls.find(id).await?;
    if found.is_none() {
        for pause in calls.pauses(Some(asker), now).await? {
            tokio::time::sleep(*pause).await;
            found = calls.find(id).await?;
            if found.is_some() {
                break;
            }
        }
    }
    Ok(found)
}

/// Where two witnesses of one call meet when Exotel's CallSid is missing: a caller who waits for an extension.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CorrelationKey {
    /// Whose phone is wanted. Callers of the same number, or of none, are never mixed up across extensions.
    pub extension: Extension,
    /// The caller's number; `None` when it is withheld.
    pub caller: Option<PhoneNumber>,
}

/// A call's claim to be the one that is met at a place, for as long as it rings.
#[derive(Clone, Debug)]
pub struct CorrelationClaim {
    /// Where.
    pub place: CorrelationKey,
    /// The time of the claim: one that ran out before is overruled.
    pub now: Timestamp,
    /// A call that is over, whose claim this one replaces.
    pub instead_of: Option<CallId>,
}

/// Who starts a call.
#[derive(Clone, Debug)]
pub struct Starter {
    /// Whose app.
    pub extension: Extension,
    /// Which of its allowances is meant.
    pub purpose: Purpose,
    /// How often it may.
    pub allowance: Allowance,
}

/// How a new call was stored.
#[derive(Debug)]
pub enum Created {
    /// It is new.
    New,
    /// It is known already, and stands so.
    Known(Box<Call>),
    /// Another call is met at its place.
    Meets(CallId),
}

/// Whether a call may be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// It may.
    Now,
    /// It has been allowed before.
    Before,
    /// Its starter has used its allowance up. The next call may be started after this time.
    TooSoon(Duration),
}

/// Why a call that is not here is not waited for.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationWaitError {
    /// Its extension waits for a call already. It may wait again after this time.
    #[error("the call is not in this region yet, and the extension waits for one already")]
    WaitsAlready(Duration),
    /// Whether it does could not be found out.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How a change was saved.
#[derive(Debug)]
pub enum Saved {
    /// The call as it now is.
    As(Call),
    /// A check did not hold; the call as it is, if there is one.
    Not(Option<Call>),
}
