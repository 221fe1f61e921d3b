//! The engine around the [core](orchestrator_core), its stores, its HTTP API and its command line.
//! It alone reads the clock and writes to disk; it holds no rule that belongs to the core.

pub mod access;
pub mod cli;
pub mod engine;
pub mod list;
mod logs;
pub mod native;
pub mod serve;
pub mod server;
pub mod store;
mod typed;
