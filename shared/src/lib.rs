//! Ringback.
