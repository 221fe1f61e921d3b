//! Progressive rollouts as pure state machines: move a fleet of nodes from one version of a job to the
//! next, in waves, watching health, and take it back when it goes wrong.
//!
//! Nothing in here has a clock, does I/O, needs a runtime, or draws a random number that is not in its
//! seed. A **driver** (yours) owns all of that, and steps the machines.
//!
//! # The machines
//!
//! - [`Job`]: one job with its versions, its nodes, and at most one deployment under way. Most of this
//!   page is about it.
//! - [`fleet::Fleet`]: who is there. Heartbeats and leases go in; what became of a node comes out, and is
//!   handed to the jobs that it concerns.
//! - [`group::Group`]: several jobs in the order of their dependencies. It says which job starts next, and
//!   takes back in reverse order what has to be taken back.
//!
//! # What goes in, what comes out
//!
//! Everything enters by [`Job::step`] as an [`Input`]: a [`Command`] of a person, [`Report`]s of agents,
//! [`NodeChange`]s of the fleet, or a [`Tick`](Input::Tick) when nothing but time has passed. Out come a
//! [`Step`] or a [`Rejection`], which has changed nothing. A step holds
//!
//! 1. **entries**: facts, to be appended to the job's log and made safe, then
//! 2. **effects**: what is to be done now. They are out of reach before the entries were taken.
//!
//! What a node should run is one function of the state, [`Job::desired`]. An [`Effect::Assign`] only says
//! that it has changed somewhere; an agent that lost a message, restarted, or was away for a month is
//! sent the whole again, and needs no case of its own.
//!
//! # The loop of a driver
//!
//! ```
//! use orchestrator_core::{Committed, Entry, Input, Job, JobId, Member, NodeChange, Rejection, Time};
//!
//! /// 1. Wait for an input, or until `job.wake()`: then the input is a tick.
//! fn drive(job: &mut Job, log: &mut Vec<Entry>, now: Time, input: Input<'_>) -> Result<Committed, Rejection> {
//!     // 2. Step. A rejection is the caller's to hear; nothing has happened.
//!     let step = job.step(now, input)?;
//!     // 3. Make the entries safe: all of them or none. If that fails, drop the job and recover it: it is ahead
//!     //    of its log.
//!     let committed = step.persist(|entries| Ok(log.extend(entries)));
//!     // 4. Only now answer, show records, and send assignments: `committed.effects`.
//!     committed.map_err(|never: std::convert::Infallible| match never {})
//! }
//!
//! let (id, now): (JobId, Time) = ("shop/web".parse()?, "2026-01-01T00:00:00Z".parse()?);
//! let (mut job, mut log) = (Job::new(id.clone(), 7), Vec::new());
//! drive(&mut job, &mut log, now, Input::Tick)?;
//!
//! // After a restart: the log is the truth.
//! // 5. Cut off the end of a step that was not written whole: nobody was told of it.
//! while log.last().is_some_and(|entry: &Entry| entry.more > 0) {
//!     log.pop();
//! }
//! let mut job = Job::recover(id, 7, &log)?;
//! // 6. First of all say how long nobody listened. Whoever leaves that out has said: since the latest entry.
//! drive(&mut job, &mut log, now, Input::Absent { millis: 60_000 })?;
//! // 7. Say all nodes that match now: what became of one meanwhile, also of one that left, may not have reached the
//! //    job.
//! drive(&mut job, &mut log, now, Input::Members(&[Member::new("n1")]))?;
//! // 8. Effects that were not carried out are lost: every node is sent all that it should run, and the job is
//! //    asked for what else it waits.
//! for node in job.nodes() {
//!     println!("{node} is to run {:?}, and nothing else of this job", job.desired(node));
//!     println!("and to say when it has ended what it was told by {:?}", job.stops(node));
//! }
//! assert!(!job.members_due());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A node that is back after a silence may run what it was told long ago: it is sent [`Job::desired`] too, whether
//! or not an effect names it.
//!
//! A deployment that stops the job waits for [`Stopped`](Observation::Stopped) of each execution: it names the generation
//! that [`Job::stops`] gives, which goes to the node together with what is desired there. What nobody reports to have
//! stopped has failed to at the deadline.
//!
//! `examples/embed.rs` is a whole scheduler in this shape.
//!
//! # Who owns time
//!
//! The driver does: it hands `now` to every step. It need not be monotone. The job keeps a time of its own
//! that only grows: a clock set back costs at most the correction, a clock set forward is time that
//! passed, up to a year for each step. [`Job::wake`] is when the job wants to be stepped though nothing
//! happens; calling earlier, later or twice does no harm.
//!
//! Deadlines run only while somebody listens. A job that was rebuilt, from a log or a snapshot, takes the time from its
//! latest entry to its first step for nobody's, and writes that down as a fact; [`Input::Absent`] as the first step says
//! it better. It has to be said with 0 by a driver that was there all the time and had only put the job away: else the
//! deadlines of a job that is rebuilt for each step would never pass.
//!
//! # How to persist, how to recover
//!
//! Keep the id and the seed of a job first: they are not in its log. Append [`Entry::encode`] lines in order, and sync
//! before you act. [`Job::recover`] takes them back; [`Job::snapshot`], taken when all entries up to [`Job::seq`] are
//! safe, makes that short together with [`Job::catch_up`]. A snapshot may be thrown away as long as the log is kept
//! from its beginning, and takes the place of entries that are not kept. Both forms are versioned, and what any
//! released version wrote can be read.
//!
//! The entries of a step belong together: one that is half written has done half of what a command asked for, and
//! would not know its key. Store them in one transaction. The end of a plain file may be torn: [`Entry::decode_log`] says
//! where to cut it. A log that ends within a step is [refused](BrokenLog::Torn).
//!
//! # What is shown
//!
//! | what | by |
//! |---|---|
//! | a list of deployments; whether one has changed | [`Job::deployments`], [`Job::summary`]: a few numbers |
//! | one of them, for people | [`Job::record`], [`Job::deployment`] |
//! | a page of its targets | [`Job::targets_from`]; of one that gave way, [`Effect::PutAside`] |
//! | what happened, with names | [`Job::step_in_words`] while it happens, [`Narrator`] from a log |
//! | why it is where it is | [`explain`] |
//! | what a command would do | [`Job::plan`] |
//!
//! A job remembers the last deployment and [`HISTORY_KEPT`] before it, [`VERSIONS_KEPT`] versions and what runs, and
//! [`KEYS_KEPT`] answered keys. A store that is to show more keeps the records of what is over itself.
//!
//! # Health is shown, not assumed
//!
//! As long as a deployment goes on, agents report every [`Interval`](Observation::Interval) of its targets,
//! also of those that are updated already: what turns bad fails ([`Job::watched`] says who that is). The
//! first good one starts the continuous-health clock, a bad one stops it, and the first good one that comes at least
//! `min_healthy_time` later makes the target updated. Silence proves nothing; it ends at the deadline. An updated
//! target that turns bad has one deadline more to show the same again.
//!
//! A batch job is run until it was reported to have ended with 0 (with [`Input::Done`] where no deployment waits for
//! it), and not again after that: an execution whose
//! node goes away before the report arrives is run once more, so its work should bear that. A rollback runs the work
//! of the version that it goes back to once more, on the nodes that the failed one has touched.
//!
//! A new version of a job that is to have no executions has shown nothing: its deployment waits until the job is
//! scaled up, and then goes by its own strategy.
//!
//! # What can be left out
//!
//! The feature `sim`, on by default, is the simulator (`sim`) and the laws (`laws`) that it checks: for
//! tests, and for trying a rollout out. A program that only embeds the machines turns it off with
//! `default-features = false`.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)
)]

mod admit;
mod apply;
mod chains;
mod decide;
mod draw;
mod dues;
mod effect;
mod event;
mod explain;
#[cfg(test)]
mod explore;
pub mod fleet;
mod format;
pub mod group;
mod health;
mod id;
mod input;
mod job;
#[cfg(feature = "sim")]
pub mod laws;
mod members;
mod names;
mod narrator;
mod order;
mod packed;
mod placement;
mod plan;
mod put_aside;
mod record;
mod replay;
mod rollout;
mod room;
mod runs;
pub mod selector;
#[cfg(feature = "sim")]
pub mod sim;
pub mod spec;
mod state;
mod summary;
mod time;
mod waiting_on;

pub use admit::{Ignored, Rejection};
pub use effect::Effect;
pub use event::{
    Aftermath, Answered, Bad, Cause, DeploymentKind, DeploymentState, Entry, Event, Heard, Member,
    Of, Presence, Reason, Standing, Started, Want,
};
pub use explain::{Explanation, explain, retell};
pub use format::FormatError;
pub use group::Outcome;
pub use id::{DeploymentId, InvalidName, JobId, NAME_BYTES_MAX, is_name};
pub use input::{
    Command, Done, Input, Interval, KEY_BYTES_MAX, NODES_MAX, NodeChange, Observation, Report,
    Request, Requests, TEXT_BYTES_MAX,
};
pub use job::{Answer, Assignment, Committed, Ending, Job, Sealed, Step, VersionView};
pub use narrator::{Named, Narrator, Sentence};
pub use plan::{Plan, PlannedWave};
pub use put_aside::PutAside;
pub use record::{CANARY_NODES_MAX, Record, Status, TargetView};
pub use replay::BrokenLog;
pub use rollout::TargetState;
pub use runs::Runs;
pub use state::{HISTORY_KEPT, KEYS_KEPT, VERSIONS_KEPT};
pub use summary::Summary;
pub use time::{Span, Time};
pub use waiting_on::{Sign, WaitingOn};

/// What the crate's page shows compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
