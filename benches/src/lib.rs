//! What the measurements share: rollouts that are walked through, rounds that are timed, tables.

pub mod table;
pub mod timing;
pub mod walk;
