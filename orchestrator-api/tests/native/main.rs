//! The native API: a real engine on a real file, over real HTTP.

mod agents;
mod contract;
mod conventions;
mod groups;
mod harness;
mod jobs;
mod lists;
mod live;
mod logs;
mod operations;
mod records;
mod stays;
mod upgrade;
