//! The command line: the real binary against a real server.

// Shared with the tests of the API; each uses a part of it.
#[allow(dead_code)]
#[path = "../native/harness.rs"]
mod harness;

mod dev;
mod errors;
mod groups;
mod logs;
mod outcomes;
mod run;
mod stories;
mod terminal;
