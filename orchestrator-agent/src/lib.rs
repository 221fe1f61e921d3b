//! The hands of the orchestrator on a node: receives what the node should run, plans, executes,
//! watches health and reports it. It holds no rule of a rollout: it does not know what a wave is.
//!
//! # The flow
//!
//! ```text
//!  server ──► client::listen ──► desired, kept on disk ─┐
//!                                                       ├──► plan(desired, observed, now) ──► actions ──► driver
//!  workloads ──► driver, health ──► observed ───────────┘                │                                  │
//!                                                                        └──► reports ──► outbox ──► server │
//!                              ▲                                                                            │
//!                              └────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! **Level-triggered.** What the server sends is all that the node should run, again and again. The [plan] compares it
//! with what is there and says what to do next; nothing else decides, and nothing depends on having seen a message. So
//! a lost message, a restart and a month offline are no cases of their own.
//!
//! **A run** is one life of one workload: an execution's generation, and the number of the attempt. Its directory is
//! written before anything is started in it ([`runs`]), and a driver starts a run at most once, whoever asks how often: that
//! is why no workload runs twice, wherever the agent is killed. The newest attempts stay on disk after they ended, and are
//! what the agent remembers of crashes.
//!
//! **What goes on is not begun anew.** A version that could not even start leaves alone what ran before it; where that is
//! wanted again, it goes on for the new assignment, and a rollback to it restarts nothing ([`plan::taken`]).
//!
//! **Workloads outlive the agent.** A process is the child of a [shim], this program again, which writes its
//! output and at last its exit code to the run's directory. An agent that comes back finds the directories, and by
//! the locks that the shims hold it knows what is alive. A container is the engine's, and is found by its name.
//!
//! **What a workload brings along**, an [artifact], is fetched before what ran so far is stopped, and the last few are kept.
//!
//! **Reports are a level, too.** At each interval of an execution that a deployment waits for, its state is said again.
//! The [outbox] keeps what could not be sent, within a bound and on disk, and sums up what goes beyond it.
//!
//! **What workloads write** stays in files with a bound, and is shipped from there as far as link and server take it; what
//! is behind too far is left out, and counted.
//!
//! # Embedding
//!
//! ```no_run
//! # async fn example() -> Result<(), orchestrator_agent::AgentError> {
//! use orchestrator_agent::{Agent, Leave, Settings};
//!
//! let settings = Settings::new("http://127.0.0.1:4650", "n1", "/var/lib/orchestrator-agent");
//! let agent = Agent::open(settings).await?;
//! agent.run(async { Leave::Running }).await
//! # }
//! ```
//!
//! Many agents may run in one process, each with a data directory and a name of its own.

mod agent;
pub mod artifact;
mod cgroup;
pub mod cli;
pub mod client;
mod disk;
pub mod driver;
pub mod health;
mod logs;
mod net;
pub mod outbox;
mod output;
mod place;
pub mod plan;
mod processes;
pub mod runs;
mod settings;
pub mod shim;
mod status;
mod systemd;
pub mod wire;
pub mod workload;

pub use agent::{Agent, AgentError, Leave};
pub use settings::{Settings, Token};
pub use status::ask as status;
