//! What the measurements share: rollouts that are walked through, rounds that are timed, tables and what becomes of them.

pub mod measured;
pub mod readme;
pub mod table;
pub mod timing;
pub mod walk;
