//! How an execution stands, from the same facts that a plan is made of.

use super::{End, Next, Phase, Seen, Supply, Wanted};

/// How an execution stands, as a report says it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Standing {
    /// There is nothing to say yet.
    Unknown,
    /// It runs, as this attempt.
    Up(u32),
    /// It ended, and will be started again.
    Down,
    /// It cannot be started; if that may change it will be tried again.
    CannotStart(String),
    /// It ended, and will not be started again.
    Exited(i32),
    /// Nothing runs, as it should be.
    Stopped,
}

/// How an execution stands.
pub fn standing(wanted: &Wanted, runs: &[Seen]) -> Standing {
    if wanted.version == 0 {
        return match runs.iter().all(Seen::is_over) {
            true => Standing::Stopped,
            false => Standing::Unknown,
        };
    }
    let workload = match &wanted.workload {
        Ok(workload) => workload,
        Err(why) => return Standing::CannotStart(why.clone()),
    };
    let newest = newest(runs);
    let up = newest.is_some_and(Seen::is_up);
    if let (Supply::Missing(why), false) = (&wanted.supply, up) {
        return Standing::CannotStart(why.clone());
    }
    let Some(run) = newest else {
        return Standing::Unknown;
    };
    if let (Phase::Planned, Some(why)) = (&run.phase, &run.unseen) {
        return Standing::CannotStart(why.clone());
    }
    match &run.phase {
        Phase::Planned if run.counts_as().number == 1 => Standing::Unknown,
        Phase::Planned => Standing::Down,
        // It is on its way out, and will be started again.
        Phase::Running if !up => Standing::Down,
        Phase::Running => Standing::Up(run.counts_as().number),
        Phase::Ended {
            how: End::CannotStart(why),
            ..
        } => Standing::CannotStart(why.clone()),
        Phase::Ended {
            how: End::Exited(code),
            ..
        } => match run.next(workload) {
            Next::Never => Standing::Exited(*code),
            Next::At { .. } => Standing::Down,
        },
    }
}

/// The run that is wanted, if it was made.
pub fn newest(runs: &[Seen]) -> Option<&Seen> {
    runs.iter()
        .filter(|run| run.is_wanted)
        .max_by_key(|run| run.counts_as())
}
