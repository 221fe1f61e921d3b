//! Whole rollouts with real parts: a server on a real file, agents, processes that they start, and what those answer.

mod api;
mod artifacts;
mod commands;
mod damage;
mod disks;
mod docker;
mod examples;
mod external;
mod harness;
mod identity;
mod idle;
mod kills;
mod limits;
mod link;
mod logs;
mod manners;
mod moves;
mod netns;
mod program;
mod registry;
mod restarts;
mod rollouts;
mod systemd;
mod whole;
mod wire;
