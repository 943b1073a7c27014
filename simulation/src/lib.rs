//! A simulation of the whole system: one thread, virtual time, everything from one seed.
//!
//! It runs the real rules and the real switchboard. All else is simulated: the tables of two regions with their replication and
//! streams, SQS and the scheduler, PBXs, phones and apps, pushes, Exotel, and the processes of the functions, which crash.
//!
//! 1. [`simulate`] runs one seed. [`shrink`] leaves out faults that a violation does not need. [`explain`] says what happened.
//! 2. `scenario` and `faults`: what people do and what goes wrong. `random`: where chance comes from.
//! 3. `state`: the data of all parts. `requests`: what they send to the functions. `sim`: one run, its virtual time and its tasks.
//! 4. `table`, `timers`, `pbx`, `phones`, `trunk`, `apps`, `exotel`: what the simulated parts do.
//! 5. `functions`, `process`, `store`, `effects`: the functions, as the code in `functions/` puts them together.
//! 6. `invariants`: what must be true.

#![allow(
    missing_docs,
    unreachable_pub,
    reason = "a test tool whose modules are private"
)]

mod apps;
mod clock;
mod effects;
pub mod exhaustive;
mod exotel;
mod faults;
mod functions;
mod invariants;
mod pbx;
mod phones;
mod process;
mod random;
mod report;
mod requests;
mod run;
mod scenario;
mod shrink;
mod sim;
mod state;
mod store;
mod table;
mod timers;
mod trunk;

pub use faults::Fault;
pub use report::{Report, explain, report};
pub use run::{Outcome, simulate};
pub use shrink::shrink;
pub use state::truth::Violation;
