//! Why a token is rejected.

/// What is wrong with a token. Only the log shows it; the client just gets 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenRejection {
    #[error("it is not a JWT")]
    Malformed,
    #[error("its algorithm is not the one in TokenAlgorithm")]
    Algorithm,
    #[error("it has no key id")]
    NoKeyId,
    #[error("the issuer has no such key")]
    UnknownKey,
    #[error("its signature is wrong")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("its issuer is not the one in TokenIssuer")]
    Issuer,
    #[error("its audience is not in TokenAudience")]
    Audience,
    #[error("its expiry, issuer or audience is missing")]
    MissingClaim,
    #[error("its extension claim is missing or malformed")]
    Extension,
    #[error("its claim device_id is malformed")]
    Device,
    #[error("its role is admin, and its claim sub is missing or malformed")]
    Subject,
}
