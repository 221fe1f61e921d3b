//! What every store promises. A store joins by one line of [`suite`].

use std::collections::{BTreeMap, BTreeSet};
use std::task::Poll;

use orchestrator_api::store::{
    Append, BegunWith, Claim, Discard, Discarded, JobRow, Machine, NodeRow, ROWS_MAX, Refused,
    Store, TokenRow, Wanted,
};
use orchestrator_core::Time;

use crate::making::*;

macro_rules! suite {
    ($name:ident: $make:path) => {
        $crate::conformance::suite!(@ $name $make:
            an_append_goes_where_the_log_ends,
            a_later_claim_fences_the_earlier,
            a_refused_append_leaves_nothing,
            a_failed_commit_leaves_nothing_and_harms_no_other,
            entries_and_rows_come_together,
            the_feed_is_complete_and_in_order,
            machines_are_in_order,
            a_snapshot_replaces_the_one_before,
            targets_are_read_from_any_number,
            jobs_are_listed_by_namespace,
            nodes_come_and_go,
            groups_are_kept_and_found,
            groups_that_ended_long_ago_are_discarded,
            tokens_and_audit_are_kept,
            what_is_old_is_discarded,
            of_each_job_the_last_deployment_stays,
            what_no_snapshot_has_taken_in_stays,
            positions_are_never_given_twice,
            a_limit_is_bounded,
        );
        mod lists_of {
            $crate::lists::suite!($make);
        }
    };
    (@ $name:ident $make:path: $($case:ident,)*) => {
        mod $name {
            $(#[tokio::test]
            async fn $case() {
                let fixture = $make();
                $crate::conformance::$case(&*fixture).await;
            })*
        }
    };
}
pub(crate) use suite;

pub(crate) async fn an_append_goes_where_the_log_ends(store: &dyn Store) {
    let claim = own(store, "a/web").await;
    assert_eq!((claim.seed, claim.epoch, claim.seq), (u64::MAX - 7, 1, 0));
    let first = entries(&claim, 3);
    take(store, first.clone()).await;
    // The same again, as after an answer that was lost.
    let again = store.commit(vec![first.clone()]).await.expect("answered");
    assert_eq!(again, [Err(Refused::Position { seq: 3 })]);
    assert_eq!(
        store.entries(claim.log, 0, 10).await.expect("read"),
        first.lines
    );
    assert_eq!(
        store.entries(claim.log, 1, 1).await.expect("read"),
        first.lines[1..2]
    );
    assert_eq!(own(store, "a/web").await.seq, 3);
}

pub(crate) async fn a_later_claim_fences_the_earlier(store: &dyn Store) {
    let one = own(store, "a/web").await;
    let other = own(store, "a/web").await;
    assert!(other.epoch > one.epoch);
    assert_eq!(
        store
            .commit(vec![entries(&one, 1), entries(&other, 1)])
            .await
            .expect("answered"),
        [Err(Refused::Fenced { epoch: other.epoch }), Ok(())]
    );
    assert!(!store.renew().await.expect("renewed").is_zero());
}

pub(crate) async fn a_refused_append_leaves_nothing(store: &dyn Store) {
    let claim = own(store, "a/web").await;
    let late = Append {
        expected: 7,
        lines: vec![line(8, Some((1, 1)))],
        snapshot: Some(vec![1]),
        job: Some(JobRow {
            id: job("a/web"),
            record: "{}".into(),
        }),
        deployments: vec![deployment(claim.log, 1, "a/web", id(1))],
        targets: vec![(id(1), vec!["{}".into()])],
        group: None,
        begun_with: None,
        nodes: vec![NodeRow {
            name: "n".into(),
            record: "{}".into(),
        }],
        audit: vec![said(1)],
        ..append(&claim)
    };
    let other = own(store, "a/db").await;
    let answer = store.commit(vec![late, entries(&other, 2)]).await;
    assert_eq!(
        answer.expect("answered"),
        [Err(Refused::Position { seq: 0 }), Ok(())]
    );
    assert!(
        store
            .entries(claim.log, 0, 9)
            .await
            .expect("read")
            .is_empty()
    );
    assert_eq!(store.snapshot(claim.log).await.expect("read"), None);
    assert!(store.jobs(None, None, 9).await.expect("read").is_empty());
    assert_eq!(store.deployment(id(1)).await.expect("read"), None);
    assert!(store.targets(id(1), 0, 9).await.expect("read").is_empty());
    assert_eq!(store.node("n".into()).await.expect("read"), None);
    assert!(store.audited(None, 9).await.expect("read").is_empty());
    assert_eq!(store.changes(0, 9).await.expect("read").len(), 2);
}

/// The commit fails in its second entry, after it wrote the first. Whoever shares its transaction is served.
pub(crate) async fn a_failed_commit_leaves_nothing_and_harms_no_other(store: &dyn Store) {
    let bad = own(store, "a/bad").await;
    let good = own(store, "a/good").await;
    let gap = Append {
        lines: vec![line(1, None), line(3, None)],
        ..append(&bad)
    };
    let (failed, taken) = tokio::join!(
        store.commit(vec![entries(&own(store, "a/first").await, 1), gap]),
        store.commit(vec![entries(&good, 1)]),
    );
    failed.expect_err("there is a gap");
    assert_eq!(taken.expect("written"), [Ok(())]);
    assert!(store.entries(bad.log, 0, 9).await.expect("read").is_empty());
    let feed = store.changes(0, 9).await.expect("read");
    assert_eq!(
        feed.iter().map(|change| change.log).collect::<Vec<_>>(),
        [good.log]
    );
    take(store, entries(&bad, 1)).await;
}

pub(crate) async fn entries_and_rows_come_together(store: &dyn Store) {
    let claim = own(store, "a/web").await;
    let mut row = deployment(claim.log, 1, "a/web", id(1));
    for revision in 1..=3 {
        row.revision = revision;
        row.total_nodes += u32::from(revision == 3);
        row.record = format!("{{\"revision\":{revision}}}");
        let next = Append {
            expected: revision - 1,
            lines: vec![line(revision, Some((1, revision)))],
            job: Some(JobRow {
                id: job("a/web"),
                record: row.record.clone(),
            }),
            deployments: vec![row.clone()],
            ..append(&claim)
        };
        take(store, next).await;
        assert_eq!(
            store.deployment(id(1)).await.expect("read"),
            Some(row.clone())
        );
        assert_eq!(
            store.jobs(None, None, 9).await.expect("read")[0].record,
            row.record
        );
    }
    let events = store.events(id(1), 1, 10).await.expect("read");
    assert_eq!(events, [line(2, Some((1, 2))), line(3, Some((1, 3)))]);
    assert!(store.events(id(2), 0, 10).await.expect("read").is_empty());
    store.check().await.expect("well");
}

/// Many commit at once, while one reads along: it sees every entry once, and none before one it has seen.
pub(crate) async fn the_feed_is_complete_and_in_order(store: &dyn Store) {
    const JOBS: usize = 20;
    const ENTRIES: u64 = 25;
    let mut claims = Vec::new();
    for index in 0..JOBS {
        claims.push(own(store, &format!("a/job-{index}")).await);
    }
    let writers = claims.into_iter().map(|mut claim| async move {
        for _ in 0..ENTRIES {
            take(store, entries(&claim, 1)).await;
            claim.seq += 1;
        }
    });
    let mut told = store.position();
    let reading = async {
        let mut seen: BTreeMap<_, u64> = BTreeMap::new();
        let mut after = 0;
        while seen.values().sum::<u64>() < JOBS as u64 * ENTRIES {
            told.wait_for(|last| *last > after)
                .await
                .expect("the store is there");
            for change in store.changes(after, 7).await.expect("read") {
                assert!(change.position > after, "positions grow");
                after = change.position;
                let last = seen.entry(change.log).or_default();
                assert_eq!(change.line, line(*last + 1, None), "none is left out");
                *last += 1;
            }
        }
        assert!(store.changes(after, 9).await.expect("read").is_empty());
        assert_eq!(*store.position().borrow(), after);
    };
    tokio::join!(all(writers), reading);
}

pub(crate) async fn machines_are_in_order(store: &dyn Store) {
    // `-` is less than `/`, and still `a-b` comes after `a`.
    let mut machines: Vec<_> = ["a-b/x", "a/y", "a/x", "b/x"]
        .map(|name| Machine::Job(job(name)))
        .into();
    machines.extend([2, 1].map(|number| Machine::Group(group_id(number))));
    machines.push(Machine::Fleet);
    let wanted = machines.iter().map(|machine| Wanted {
        machine: machine.clone(),
        seed: 1,
    });
    let claims = store.claim(wanted.collect()).await.expect("claimed");
    assert!(claims.iter().map(|claim| &claim.machine).eq(&machines));
    machines.sort();
    let mut listed: Vec<Machine> = Vec::new();
    loop {
        let page = store
            .machines(listed.last().cloned(), 2)
            .await
            .expect("read");
        if page.is_empty() {
            break;
        }
        listed.extend(page);
    }
    assert_eq!(listed, machines);
}

pub(crate) async fn a_snapshot_replaces_the_one_before(store: &dyn Store) {
    let mut claim = own(store, "a/web").await;
    for size in [3_usize, 100_000] {
        let next = Append {
            snapshot: Some(vec![7; size]),
            ..entries(&claim, 2)
        };
        take(store, next).await;
        claim.seq += 2;
        let found = store.snapshot(claim.log).await.expect("read");
        assert_eq!(found, Some((claim.seq, vec![7; size])));
    }
}

pub(crate) async fn targets_are_read_from_any_number(store: &dyn Store) {
    let claim = own(store, "a/web").await;
    let records: Vec<String> = (0..1000).map(|n| format!("{{\"target\":{n}}}")).collect();
    for some in [1000, 300] {
        let put = Append {
            deployments: vec![deployment(claim.log, 1, "a/web", id(1))],
            targets: vec![(id(1), records[..some].to_vec())],
            ..append(&claim)
        };
        take(store, put).await;
        for from in [0_usize, 1, 127, 128, 129, 299, 300, 990, 5000] {
            let want: Vec<_> = records[..some]
                .iter()
                .skip(from)
                .take(150)
                .cloned()
                .collect();
            let found = store.targets(id(1), from as u32, 150).await.expect("read");
            assert_eq!(found, want, "from {from} of {some}");
        }
    }
}

pub(crate) async fn jobs_are_listed_by_namespace(store: &dyn Store) {
    for name in ["b/x", "a-b/x", "a/y", "a/x"] {
        let claim = own(store, name).await;
        let row = JobRow {
            id: job(name),
            record: format!("{name:?}"),
        };
        take(
            store,
            Append {
                job: Some(row),
                ..append(&claim)
            },
        )
        .await;
    }
    let list = async |namespace: Option<&str>, after: Option<&str>| {
        let rows = store
            .jobs(namespace.map(Into::into), after.map(job), 3)
            .await;
        rows.expect("read")
            .iter()
            .map(|row| row.id.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(list(None, None).await, ["a/x", "a/y", "a-b/x"]);
    assert_eq!(list(None, Some("a/y")).await, ["a-b/x", "b/x"]);
    assert_eq!(list(Some("a"), None).await, ["a/x", "a/y"]);
    assert_eq!(list(Some("a"), Some("a/x")).await, ["a/y"]);
    assert_eq!(list(Some("a-b"), Some("a/y")).await, ["a-b/x"]);
    assert!(list(Some("a"), Some("b/x")).await.is_empty());
}

pub(crate) async fn nodes_come_and_go(store: &dyn Store) {
    let claim = own(store, "a/web").await;
    let node = |name: &str, record: &str| NodeRow {
        name: name.into(),
        record: record.into(),
    };
    let nodes = vec![node("c", "1"), node("a", "1"), node("b", "1")];
    take(
        store,
        Append {
            nodes,
            ..append(&claim)
        },
    )
    .await;
    let change = Append {
        nodes: vec![node("b", "2")],
        nodes_gone: vec!["a".into(), "none".into()],
        ..append(&claim)
    };
    take(store, change).await;
    assert_eq!(
        store.nodes(None, 9).await.expect("read"),
        [node("b", "2"), node("c", "1")]
    );
    assert_eq!(
        store.nodes(Some("b".into()), 9).await.expect("read"),
        [node("c", "1")]
    );
    assert_eq!(store.node("a".into()).await.expect("read"), None);
    assert_eq!(
        store.node("b".into()).await.expect("read"),
        Some(node("b", "2"))
    );
}

pub(crate) async fn groups_are_kept_and_found(store: &dyn Store) {
    let begun_with = |key: Option<&str>| BegunWith {
        key: key.map(str::to_owned),
        wanted: "{\"w\":1}".to_owned(),
    };
    let begin = async |number: u64, name: &str, key: Option<&str>| {
        let claim = own_group(store, number).await;
        let first = Append {
            group: Some(group(number, name)),
            begun_with: Some(begun_with(key)),
            ..entries(&claim, 1)
        };
        (claim, store.commit(vec![first]).await)
    };
    for (number, name, key) in [(1, "a", Some("k")), (2, "b", None), (3, "a", None)] {
        let (_, begun) = begin(number, name, key).await;
        begun.expect("written").pop().unwrap().expect("taken");
    }
    let listed = async |name: Option<&str>, before: Option<u64>, limit: u32| {
        let rows = store.groups(name.map(str::to_owned), before.map(group_id), limit);
        let rows = rows.await.expect("read");
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(listed(None, None, 9).await, [3, 2, 1].map(group_id));
    assert_eq!(listed(None, Some(3), 1).await, [group_id(2)]);
    assert_eq!(listed(Some("a"), None, 9).await, [3, 1].map(group_id));
    assert_eq!(listed(Some("a"), Some(3), 9).await, [group_id(1)]);
    assert_eq!(listed(Some("c"), None, 9).await, []);
    let running = async || store.running_groups().await.expect("read");
    assert_eq!(running().await, [1, 2, 3].map(group_id));

    // What changes leaves alone with what it began.
    let (mut claim, begun) = begin(4, "d", None).await;
    begun.expect("written").pop().unwrap().expect("taken");
    claim.seq = 1;
    let mut ended = group(4, "d");
    ended.completed_at = Some(at(7));
    ended.record = "{}".to_owned();
    let next = Append {
        group: Some(ended.clone()),
        ..entries(&claim, 1)
    };
    take(store, next).await;
    let found = store.group(group_id(4)).await.expect("read");
    assert_eq!(found, Some(ended));
    let kept = store.begun_with(group_id(4)).await.expect("read");
    assert_eq!(kept, Some(begun_with(None)));
    assert_eq!(running().await, [1, 2, 3].map(group_id));

    let of_key = async |key: &str| store.group_of_key(key.to_owned()).await.expect("read");
    assert_eq!(of_key("k").await, Some(group_id(1)));
    assert_eq!(of_key("l").await, None);
    // Of one key there is one.
    let (_, twice) = begin(5, "e", Some("k")).await;
    twice.expect_err("it is there already");
    assert_eq!(store.group(group_id(5)).await.expect("read"), None);
    assert_eq!(store.begun_with(group_id(5)).await.expect("read"), None);
}

pub(crate) async fn groups_that_ended_long_ago_are_discarded(store: &dyn Store) {
    for (number, completed_at) in [(1, Some(at(100))), (2, Some(at(101))), (3, None)] {
        let claim = own_group(store, number).await;
        let mut row = group(number, "a");
        row.completed_at = completed_at;
        let write = Append {
            group: Some(row),
            begun_with: Some(BegunWith {
                key: None,
                wanted: "{}".to_owned(),
            }),
            snapshot: (number == 1).then(|| vec![1]),
            ..entries(&claim, 5)
        };
        take(store, write).await;
    }
    // Nobody is asked for snapshots of groups that have ended.
    let held = discard(store, at(101), at(1000), at(0)).await;
    assert!(held.is_empty(), "{held:?}");
    let rows = store.groups(None, None, 9).await.expect("read");
    let left: Vec<_> = rows.into_iter().map(|row| row.id).collect();
    assert_eq!(left, [3, 2].map(group_id));
    let machines = store.machines(None, 9).await.expect("read");
    assert_eq!(
        machines,
        [2, 3].map(|number| Machine::Group(group_id(number)))
    );
    for number in [2, 3] {
        let claim = own_group(store, number).await;
        let left = store.entries(claim.log, 0, 99).await.expect("read");
        assert_eq!(left.len(), 5);
    }
    assert_eq!(own_group(store, 1).await.seq, 0, "it would begin anew");
}

pub(crate) async fn tokens_and_audit_are_kept(store: &dyn Store) {
    let token = |id: &str, hash, record: &str| TokenRow {
        id: id.into(),
        hash: [hash; 32],
        record: record.into(),
    };
    let put = async |row: TokenRow, was: Option<TokenRow>, line| {
        let put = store.put_token(row, was, said(line)).await;
        put.map_err(|why| why.to_string())
    };
    let first = token("b", 1, "1");
    assert_eq!(put(first.clone(), None, 1).await, Ok(true));
    assert_eq!(put(token("a", 2, "1"), None, 2).await, Ok(true));
    let second = token("b", 1, "2");
    let was = Some(first.clone());
    assert_eq!(put(second, was.clone(), 3).await, Ok(true));
    // It is no longer what it was, it is there already, it was never there: no line says that it was done.
    assert_eq!(put(token("b", 1, "3"), was, 9).await, Ok(false));
    assert_eq!(put(token("b", 3, "1"), None, 9).await, Ok(false));
    let never = token("d", 4, "1");
    assert_eq!(put(never.clone(), Some(never), 9).await, Ok(false));
    // The secret of one is no other's: neither the token nor its line is written.
    let same_secret = put(token("c", 2, "1"), None, 9).await;
    same_secret.expect_err("two of one secret");
    store.audit(vec![said(4), said(5)]).await.expect("written");
    assert_eq!(
        store.token([1; 32]).await.expect("read"),
        Some(token("b", 1, "2"))
    );
    assert_eq!(store.token([3; 32]).await.expect("read"), None);
    let tokens = store.tokens(None, 9).await.expect("read");
    assert_eq!(tokens, [token("a", 2, "1"), token("b", 1, "2")]);
    assert_eq!(
        store.tokens(Some("a".into()), 9).await.expect("read"),
        tokens[1..]
    );
    let newest = store.audited(None, 2).await.expect("read");
    let older = store.audited(Some(newest[1].0), 9).await.expect("read");
    let lines: Vec<_> = newest
        .into_iter()
        .chain(older)
        .map(|(_, line)| line)
        .collect();
    assert_eq!(lines, [5, 4, 3, 2, 1].map(said));
}

/// A log with two deployments, of which the first ended at 100, with five entries each and two of none, and a
/// snapshot after all of them.
async fn two_deployments(store: &dyn Store, snapshot: Option<Vec<u8>>) -> Claim {
    let claim = own(store, "a/web").await;
    let lines = (1..=5).map(|n| line(n, Some((1, n))));
    let lines = lines.chain((1..=5).map(|n| line(5 + n, Some((2, n)))));
    let lines = lines.chain([line(11, None), line(12, None)]).collect();
    let mut old = deployment(claim.log, 1, "a/web", id(1));
    old.completed_at = Some(at(100));
    let write = Append {
        lines,
        snapshot,
        deployments: vec![old, deployment(claim.log, 2, "a/web", id(2))],
        targets: vec![(id(1), vec!["1".into(); 500])],
        audit: (1..=5).map(|n| said(n * 100)).collect(),
        ..append(&claim)
    };
    take(store, write).await;
    claim
}

/// Discards to the end, two rows at a time. Whose snapshots are missing for that.
async fn discard(
    store: &dyn Store,
    deployments: Time,
    entries: Time,
    audit: Time,
) -> BTreeSet<Machine> {
    let older = Discard {
        deployments,
        entries,
        audit,
        rows_max: 2,
    };
    let mut calls = 0;
    let mut all_held = BTreeSet::new();
    loop {
        let Discarded { more, held } = store.discard(older).await.expect("discarded");
        all_held.extend(held);
        if !more {
            break;
        }
        calls += 1;
        assert!(calls < 1000, "it comes to an end");
    }
    assert!(calls > 0, "it takes several calls");
    all_held
}

pub(crate) async fn what_is_old_is_discarded(store: &dyn Store) {
    let claim = two_deployments(store, Some(vec![1])).await;
    let held = discard(store, at(100), at(1012), at(300)).await;
    assert!(held.is_empty(), "{held:?}");
    assert!(
        store.deployment(id(1)).await.expect("read").is_some(),
        "ended no earlier"
    );
    let left = store.entries(claim.log, 0, 99).await.expect("read");
    let seqs: Vec<_> = left.iter().map(|line| line.seq).collect();
    assert_eq!(
        seqs,
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12],
        "one of no deployment was old"
    );
    assert_eq!(store.audited(None, 9).await.expect("read").len(), 3);

    discard(store, at(101), at(2000), at(0)).await;
    assert_eq!(store.deployment(id(1)).await.expect("read"), None);
    assert!(store.targets(id(1), 0, 9).await.expect("read").is_empty());
    assert!(store.deployment(id(2)).await.expect("read").is_some());
    let left = store.entries(claim.log, 0, 99).await.expect("read");
    assert!(
        left.iter().map(|line| line.seq).eq(6..=10),
        "those of what is kept"
    );
    assert_eq!(store.events(id(2), 0, 99).await.expect("read").len(), 5);
    assert_eq!(store.audited(None, 9).await.expect("read").len(), 3);
}

pub(crate) async fn of_each_job_the_last_deployment_stays(store: &dyn Store) {
    let claim = two_deployments(store, Some(vec![1])).await;
    let mut last = deployment(claim.log, 2, "a/web", id(2));
    last.completed_at = Some(at(100));
    let claim = Claim { seq: 12, ..claim };
    let ended = Append {
        deployments: vec![last],
        ..append(&claim)
    };
    take(store, ended).await;
    discard(store, Time::MAX, Time::MAX, at(0)).await;
    assert_eq!(store.deployment(id(1)).await.expect("read"), None);
    assert!(store.deployment(id(2)).await.expect("read").is_some());
    assert_eq!(store.events(id(2), 0, 99).await.expect("read").len(), 5);
}

pub(crate) async fn what_no_snapshot_has_taken_in_stays(store: &dyn Store) {
    let mut claim = two_deployments(store, None).await;
    let web = BTreeSet::from([Machine::Job(job("a/web"))]);
    let held = discard(store, Time::MAX, Time::MAX, at(0)).await;
    assert_eq!(held, web, "it waits for a snapshot");
    assert_eq!(
        store.entries(claim.log, 0, 99).await.expect("read").len(),
        12
    );
    claim.seq = 12;
    take(
        store,
        Append {
            snapshot: Some(vec![1]),
            ..append(&claim)
        },
    )
    .await;
    take(store, entries(&claim, 1)).await;
    let held = discard(store, Time::MAX, Time::MAX, at(0)).await;
    assert_eq!(held, web, "what came since waits for the next one");
    let left = store.entries(claim.log, 0, 99).await.expect("read");
    assert!(left.iter().map(|line| line.seq).eq([6, 7, 8, 9, 10, 13]));
}

pub(crate) async fn positions_are_never_given_twice(store: &dyn Store) {
    let mut claim = own(store, "a/web").await;
    take(
        store,
        Append {
            snapshot: Some(vec![1]),
            ..entries(&claim, 5)
        },
    )
    .await;
    let last = store.changes(0, 9).await.expect("read")[4].position;
    discard(store, at(0), Time::MAX, at(0)).await;
    assert!(store.changes(0, 9).await.expect("read").is_empty());
    claim.seq = 5;
    take(store, entries(&claim, 1)).await;
    let next = store.changes(last, 9).await.expect("read");
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].line, line(6, None));
}

pub(crate) async fn a_limit_is_bounded(store: &dyn Store) {
    let claim = own(store, "a/web").await;
    take(store, entries(&claim, u64::from(ROWS_MAX) + 1)).await;
    let found = store.entries(claim.log, 0, u32::MAX).await.expect("read");
    assert_eq!(found.len(), ROWS_MAX as usize);
    assert!(
        store
            .entries(claim.log, u64::MAX, 9)
            .await
            .expect("read")
            .is_empty()
    );
    assert!(
        store
            .entries(claim.log, 0, 0)
            .await
            .expect("read")
            .is_empty()
    );
}

/// All of them at once, in one task.
async fn all(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut running: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        running.retain_mut(|one| one.as_mut().poll(context).is_pending());
        match running.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}
