//! What a call costs: time, memory, requests and money, measured on the functions themselves.
//!
//! Reading order: [`functions`] says what is started, [`world`] plays what is around it, [`stage`] puts somebody there to be
//! called; [`cold`], [`warm`], [`size`] (with [`crates`]) and [`scale`] measure; [`cost`] reckons; [`page`] keeps the results.

pub mod cold;
pub mod cost;
pub mod crates;
pub mod express;
pub mod figures;
pub mod functions;
pub mod life;
pub mod machine;
pub mod page;
pub mod path;
pub mod process;
pub mod scale;
pub mod size;
pub mod stage;
pub mod warm;
pub mod world;
