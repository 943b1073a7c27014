//! The example events of `events/`, and `ringback-local invoke`, which sends one of them to its function with the SAM CLI.
//!
//! `files` reads them and what `events/README.md` says about each, `resources` makes a table and secrets for them, apart from those
//! of the running stack, and `invoke` runs `sam local invoke`. `relay` lets its containers reach the stack.

mod files;
pub mod invoke;
mod relay;
mod resources;

pub use files::{EventFile, Expectation, documented_secrets, expectations};
pub use resources::FunctionResources;

/// The name of this machine in the containers of `sam local invoke`, as Docker Desktop has it too.
pub const HOST_OF_CONTAINERS: &str = "host.docker.internal";
