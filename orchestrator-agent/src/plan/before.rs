//! What runs, or comes up again, in place of what is wanted.

use std::collections::BTreeMap;

use super::{Moment, Seen, Supply, Wanted, newest, serving};

/// Of what runs no more, or is about to end, that which is started again unless something else is wanted: what is wanted, or
/// what ran before it.
pub fn comes_up<'a>(wanted: &Wanted, runs: &'a [Seen], now: Moment) -> Option<&'a Seen> {
    let mine = newest(runs);
    if wanted.version == 0 || mine.is_some_and(Seen::is_up) {
        return None;
    }
    let good = good_before(runs, wanted);
    let goes_on = best_other(runs);
    let in_place = |before| goes_on.is_none().then_some(before).flatten();
    let Ok(workload) = &wanted.workload else {
        return in_place(meanwhile(runs, wanted, good));
    };
    let Some(mine) = mine else {
        let is_here = wanted.supply == Supply::Here;
        return in_place(meanwhile(runs, wanted, good).filter(|_| !is_here));
    };
    let is_lost = workload.restart.put_back && mine.is_lost(wanted, workload, now);
    match is_lost && (good.is_some() && !wanted.is_replaced || goes_on.is_some()) {
        true => in_place(good),
        false => Some(mine).filter(|mine| mine.comes_up(workload)),
    }
}

/// What comes up again where nothing of what is wanted has begun: what ran until now, or what would have been put back for
/// that. What was stopped already does so only where it is known that nothing begins in its place.
pub(super) fn meanwhile<'a>(
    runs: &'a [Seen],
    wanted: &Wanted,
    good: Option<&'a Seen>,
) -> Option<&'a Seen> {
    let newest = others(runs).max_by_key(|run| run.counts_as())?;
    let newest_up = Some(newest).filter(|_| newest.comes_up(&newest.workload) && !newest.given_up);
    let goes_on = newest_up.filter(|_| newest.asked.is_none());
    let is_missing = matches!(wanted.supply, Supply::Missing(_)) || wanted.workload.is_err();
    match newest.is_vain() {
        true => good.or(goes_on),
        false if is_missing => newest_up,
        false => goes_on,
    }
}

/// Of what is not wanted, the newest that was healthy, or need not be, and would come up again. It may have been stopped.
pub(super) fn good_before<'a>(runs: &'a [Seen], wanted: &Wanted) -> Option<&'a Seen> {
    // Who counts as of a later assignment is of an earlier job of the same name.
    let is_of_it = |run: &&Seen| run.counts_as().generation <= wanted.generation;
    let is_good =
        |run: &&Seen| !run.was_never_healthy() && !run.given_up && run.comes_up(&run.workload);
    others(runs)
        .filter(is_of_it)
        .filter(is_good)
        .max_by_key(|run| run.counts_as())
}

/// Of what is not wanted, the newest that lives and was not told to stop.
pub(super) fn best_other(runs: &[Seen]) -> Option<&Seen> {
    let others = serving(runs).filter(|run| !run.is_wanted);
    others.max_by_key(|run| run.worth())
}

/// Of each assignment that is not wanted and was when it ended, the last attempt.
fn others(runs: &[Seen]) -> impl Iterator<Item = &Seen> {
    let mut last: BTreeMap<u64, &Seen> = BTreeMap::new();
    for run in runs.iter().filter(|run| !run.is_wanted) {
        let known = last.entry(run.counts_as().generation).or_insert(run);
        if run.counts_as() > known.counts_as() {
            *known = run;
        }
    }
    last.into_values().filter(|run| !run.dismissed)
}
