//! A fleet that exists only here: a driver, a network, agents and people, all drawn from one seed.
//!
//! [`run`] rolls a second version out over a fleet that runs a first one, with everything that goes
//! wrong on the way as the [`Settings`] say, in virtual time. The driver in here has nothing but the
//! crate's public interface. After each step, or after [every so many](Settings::recheck_every), it asks whether
//! [what must always hold](crate::laws) does, and at the end compares what the nodes were told with what they really
//! run. [`Outcome::checked`] says how many steps were looked at.
//!
//! ```
//! use orchestrator_core::sim::{Settings, run};
//!
//! let outcome = run(&Settings::default()).expect("no law is broken");
//! assert_eq!(outcome.message, "completed: 10 of 10 nodes updated");
//! ```

mod agent;
mod driver;
mod end;
mod fate;
mod people;
mod report;
mod run;
mod settings;
mod sketch;
mod streams;
mod swarm;
mod told;
mod world;

pub use report::{Blast, Followed, Outcome, Violation, Wave};
pub use settings::{Behavior, Curve, Faults, Network, Settings};
pub use sketch::{Pace, Sketch};

/// Plays a rollout to its end. The same settings give the same outcome on every machine.
///
/// An error is a law that does not hold, and so a bug of the core: it is a value, with all that is
/// needed to see it again.
pub fn run(settings: &Settings) -> Result<Outcome, Violation> {
    watch(settings, |_| {})
}

/// As [`run`], and hands every wave of the new version to `see` as soon as it is over.
pub fn watch(settings: &Settings, mut see: impl FnMut(&Wave)) -> Result<Outcome, Violation> {
    run::Run::new(settings, &mut see).play()
}
