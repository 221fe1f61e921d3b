//! The real program, as a process of its own: how it begins, how it ends, and what a kill cannot take from it.

mod beginning;
mod client;
mod clock;
mod crash;
mod ending;
mod people;
mod program;
mod retention;
mod soak;
