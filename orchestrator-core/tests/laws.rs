//! What must always hold, over random fleets, specs, commands, reports and faults. A failure shrinks to
//! a script in the words of `tests/scripts/README.md`: save it there, and it is a story.

mod story;

use std::fmt;

use orchestrator_core::spec::{JobType, Placement};
use orchestrator_core::{
    Command, DeploymentKind, DeploymentState, Entry, Input, Job, Presence, WaitingOn, laws,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use story::Story;

/// Lines of a story.
#[derive(Clone)]
struct Script(Vec<String>);

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n    {}\n", self.0.join("\n    "))
    }
}

const NODES: u32 = 6;

fn node() -> impl Strategy<Value = String> {
    (1..=NODES).prop_map(|n| format!("n{n}"))
}

fn rollout() -> impl Strategy<Value = String> {
    let strategy = prop_oneof![
        Just("immediate".to_owned()),
        (0..4_u32).prop_map(|waves| format!("rolling waves={waves}")),
        ((1..4_u32), (0..4_u32)).prop_map(|(n, waves)| format!("canary {n} waves={waves}")),
        (1..100_u32).prop_map(|n| format!("canary {n}% waves=2 auto_promote")),
    ];
    let failure = select(vec![
        "",
        " no_auto_rollback",
        " on_failure=pause",
        " on_failure=fail",
    ]);
    let limits = select(vec![
        "",
        " max_failed=0",
        " max_failed=1 max_failed_percent=100",
        " max_failed_percent=0",
        " max_failed=100 max_failed_percent=100",
    ]);
    let health = select(vec![
        "",
        " threshold=0 deadline=40s",
        " threshold=1",
        " min_healthy=0s",
        " deadline=31s",
    ]);
    let rest = select(vec!["", " spread=zone", " again", " batch"]);
    (strategy, limits, failure, health, rest).prop_map(|(a, b, c, d, e)| format!("{a}{b}{c}{d}{e}"))
}

fn placement() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just(String::new()),
        1 => (0..9_u32).prop_map(|n| format!(" replicas={n}")),
        1 => (0..5_u32).prop_map(|n| format!(" distinct={n}")),
    ]
}

/// What an agent says, or all of a wave.
fn report() -> impl Strategy<Value = String> {
    let word = select(vec![
        "healthy",
        "healthy",
        "healthy",
        "unhealthy",
        "started",
        "stopped",
        "restarted",
        "silent-checks",
        "errors 50 of 100",
        "errors 0 of 100",
        "errors 3 of 5",
        "exits 0",
        "exits 1",
        "cannot start no such image",
        "stays healthy 30s",
    ]);
    prop_oneof![
        3 => (node(), word.clone()).prop_map(|(n, w)| format!("{n} {w}")),
        2 => word.prop_map(|w| format!("wave {w}")),
    ]
}

/// Nodes that match.
fn matching() -> impl Strategy<Value = String> {
    (1..=NODES, 1..=NODES).prop_map(|(a, b)| format!("n{}..n{}", a.min(b), a.max(b)))
}

/// What becomes of a node.
fn fate() -> impl Strategy<Value = String> {
    let fate = select(vec![
        "lost",
        "down",
        "draining",
        "gone",
        "unmatched",
        "back",
        "back",
        "back zone=a",
    ]);
    let some = proptest::collection::vec(node(), 1..4);
    (some, fate).prop_map(|(mut nodes, f)| {
        nodes.sort();
        nodes.dedup();
        format!("{} {f}", nodes.join(" "))
    })
}

fn line() -> impl Strategy<Value = String> {
    let command = select(vec![
        "promote",
        "promote",
        "pause",
        "resume",
        "cancel",
        "fail odd",
        "restart",
        "stop",
        "rollback",
        "rollback v1",
        "rollback v2",
        "rollback v3",
        "scale 1",
        "scale 0",
        "scale 3",
        "scale 9",
        "pause key=a",
        "resume key=a",
    ]);
    let time = select(vec![
        "pass 1s",
        "pass 30s",
        "pass 30s",
        "pass 5m",
        "pass 2h",
        "clock back 1h",
        "clock forward 1h",
        "away 10m",
    ]);
    prop_oneof![
        10 => report(),
        3 => fate(),
        3 => command.prop_map(str::to_owned),
        3 => time.prop_map(str::to_owned),
        2 => ((2..5_u32), rollout(), placement()).prop_map(|(v, r, p)| format!("deploy v{v} {r}{p}")),
        1 => ((2..5_u32), rollout(), placement(), matching())
            .prop_map(|(v, r, p, on)| format!("deploy v{v} {r}{p} selector=gpu on={on}")),
        1 => matching().prop_map(|on| format!("members {on}")),
    ]
}

/// Something runs, something else is rolled out, and then things happen.
fn script() -> impl Strategy<Value = Script> {
    let head = (1..=NODES, placement(), rollout(), any::<bool>());
    (head, vec(line(), 0..40)).prop_map(|((nodes, placement, rollout, proven), lines)| {
        let mut script = vec![format!("nodes n1..n{nodes}")];
        if proven {
            script.push(format!("deploy v1{placement}"));
            script.push("everyone started".to_owned());
        }
        script.push(format!("deploy v2 {rollout}{placement}"));
        script.extend(lines);
        Script(script)
    })
}

fn play(script: &Script) -> Result<Story, TestCaseError> {
    let mut story = Story::new();
    for line in &script.0 {
        one(&mut story, line)?;
    }
    Ok(story)
}

/// Plays one line, and checks the laws against the job as it was before.
fn one(story: &mut Story, line: &str) -> Result<(), TestCaseError> {
    let (before, from) = (story.job.clone(), story.log.len());
    match story.play(line) {
        // Nothing is there that the line could be about.
        Err(why)
            if why.contains("there is no deployment") || why.contains("cannot be said now") =>
        {
            return Ok(());
        }
        Err(why) => return Err(TestCaseError::fail(why)),
        Ok(()) => {}
    }
    // A line may be several steps; the laws of one step are checked where it is taken.
    laws::check(&story.job).map_err(|broken| TestCaseError::fail(broken.to_string()))?;
    prop_assert_eq!(
        before.seq() + (story.log.len() - from) as u64,
        story.job.seq()
    );
    Ok(())
}

/// From here on every node is there and nothing goes wrong.
fn heal(story: &mut Story) -> Result<(), TestCaseError> {
    one(story, &format!("nodes n1..n{NODES}"))?;
    finish(story)
}

/// Everyone is well and a person does what is asked for.
fn finish(story: &mut Story) -> Result<(), TestCaseError> {
    for _ in 0..200 {
        if story.job.members_due() {
            one(story, &format!("members n1..n{NODES}"))?;
        }
        let Some(record) = story
            .job
            .deployment()
            .filter(|r| !r.status.state.is_final())
        else {
            return Ok(());
        };
        match story.job.waiting_on() {
            Some(WaitingOn::Resume) => one(story, "resume")?,
            Some(WaitingOn::Promotion) => one(story, "promote")?,
            Some(WaitingOn::Health { .. } | WaitingOn::Proof { .. }) => {
                let before = story.job.seq();
                one(story, "wave started")?;
                one(story, "everyone stays healthy 30s")?;
                if record.kind == DeploymentKind::Stop {
                    one(story, "wave stopped")?;
                } else if story.job.seq() == before {
                    one(story, "wave exits 0")?;
                }
            }
            Some(WaitingOn::Executions) => one(story, "scale 1")?,
            Some(WaitingOn::Members) => return Err(TestCaseError::fail("they were listed")),
            Some(WaitingOn::ReadyNode) => {
                // More executions than nodes, and no two on one: what remains is a person.
                let spec = story.job.spec(record.to_version);
                let distinct = spec.map(|s| s.placement);
                prop_assert!(
                    matches!(distinct, Some(Placement::Replicas { distinct: true, .. })),
                    "every node is there: {}",
                    record.status.message
                );
                prop_assert_eq!(record.status.updated_nodes, 0, "{}", record.status.message);
                one(story, "cancel")?;
            }
            None => return Err(TestCaseError::fail("it waits for nothing")),
        }
    }
    Err(TestCaseError::fail(format!(
        "it never ends: {:?}",
        story.job.deployment()
    )))
}

/// What must be so when the last deployment has completed and every node is ready.
fn in_order(story: &Story) -> Result<(), TestCaseError> {
    let job = &story.job;
    let completed = |r: orchestrator_core::Record| r.status.state == DeploymentState::Completed;
    if !job.deployment().is_some_and(completed) || job.members_due() {
        return Ok(());
    }
    let nodes: Vec<String> = (1..=NODES).map(|n| format!("n{n}")).collect();
    let here = nodes.iter().map(|node| job.desired(node));
    let here: Vec<Vec<u32>> = here
        .map(|all| all.iter().map(|a| a.version).collect())
        .collect();
    let batch = job
        .membership()
        .is_some_and(|spec| spec.job_type == JobType::Batch);
    let running: usize = here.iter().map(Vec::len).sum();
    prop_assert!(
        here.iter()
            .flatten()
            .all(|&version| version == job.current()),
        "{here:?}"
    );
    match job.membership().map(|spec| spec.placement) {
        _ if job.current() == 0 => prop_assert_eq!(running, 0),
        // What has done its work is not to run.
        _ if batch => {}
        Some(Placement::Every) | None => {
            prop_assert!(here.iter().all(|all| all.len() == 1), "{here:?}");
        }
        Some(Placement::Replicas { count, distinct }) => {
            let all = if distinct { count.min(NODES) } else { count };
            prop_assert_eq!(running, all as usize, "{:?}", here);
            prop_assert!(
                !distinct || here.iter().all(|all| all.len() <= 1),
                "{here:?}"
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    /// Whatever happened: when all nodes are there and what a person asks for completes, everything runs what is
    /// current, in the places that the placement asks for, and nothing else runs.
    #[test]
    fn what_completes_leaves_everything_in_order(
        script in script(),
        then in select(vec!["deploy v9", "deploy v9 rolling 2", "deploy v9 distinct=4", "deploy v9 replicas=7", "stop", "rollback"]),
    ) {
        let mut story = play(&script)?;
        heal(&mut story)?;
        in_order(&story)?;
        one(&mut story, &(then.to_owned() + if then.starts_with("deploy") { " on=n1..n6" } else { "" }))?;
        heal(&mut story)?;
        in_order(&story)?;
    }

    /// Laws 1 to 7, 12, 14 and 15 after every line, and 7 and 16 with it: the story rebuilds the job
    /// from its log and its snapshot between any two lines.
    #[test]
    fn the_laws_hold_after_every_line(script in script()) {
        play(&script)?;
    }

    /// Law 7: a snapshot taken anywhere, and what came after it, is the state to the byte.
    #[test]
    fn a_snapshot_and_what_came_after_it_is_the_state(script in script(), cut in 0.0..1.0) {
        let story = play(&script)?;
        let cut = (story.log.len() as f64 * cut) as usize;
        let mut early = Job::new(story.job.id().clone(), story::SEED);
        early.catch_up(&story.log[..cut]).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let mut job = Job::from_snapshot(&early.snapshot()).expect("it was just taken");
        job.catch_up(&story.log[cut..]).expect("it goes on where the snapshot ends");
        prop_assert_eq!(job.snapshot(), story.job.snapshot());
    }

    /// Law 8: the same script is the same log, byte for byte, whatever ran before in this process.
    #[test]
    fn the_same_script_is_the_same_log(script in script()) {
        let lines = |log: &[Entry]| log.iter().map(Entry::encode).collect::<Vec<_>>();
        prop_assert_eq!(lines(&play(&script)?.log), lines(&play(&script)?.log));
    }

    /// Law 9: healthy nodes and nobody who intervenes: it completes.
    #[test]
    fn healthy_nodes_complete(nodes in 1..=NODES, rollout in rollout(), placement in placement()) {
        let mut story = play(&Script(vec![
            format!("nodes n1..n{nodes}"),
            format!("deploy v1 {rollout}{placement}"),
        ]))?;
        prop_assume!(!placement.ends_with("=0"));
        heal(&mut story)?;
        let record = story.job.deployment().expect("it was registered");
        prop_assert_eq!(record.status.state, DeploymentState::Completed, "{}", record.status.message);
        prop_assert!(story.job.versions().all(|v| v.stable));
    }

    /// Laws 9, 10, 14 and 15: whatever happened, it ends when it stops happening, and then every ready
    /// node runs the current version where the last deployment completed.
    #[test]
    fn everything_ends(script in script()) {
        let mut story = play(&script)?;
        heal(&mut story)?;
        let Some(record) = story.job.deployment() else { return Ok(()) };
        if record.status.state == DeploymentState::Completed {
            let current = story.job.current();
            for node in 1..=NODES {
                for assignment in story.job.desired(&format!("n{node}")) {
                    prop_assert_eq!(assignment.version, current, "{}", assignment.node);
                }
            }
        }
    }

    /// Law 10: after a completed rollback nobody was last told the version that was taken back.
    #[test]
    fn a_rollback_takes_all_of_it_back(
        nodes in 1..=NODES,
        rollout in rollout(),
        placement in placement(),
        events in vec(prop_oneof![report(), fate()], 0..20),
    ) {
        let mut lines = vec![format!("nodes n1..n{nodes}")];
        lines.push(format!("deploy v1{placement}"));
        lines.push("everyone started".to_owned());
        lines.push(format!("deploy v2 {rollout}{placement}"));
        lines.extend(events);
        let mut story = play(&Script(lines))?;
        let under_way = |story: &Story| story.job.waiting_on().is_some();
        if under_way(&story) {
            one(&mut story, "fail odd")?;
        }
        heal(&mut story)?;
        let record = story.job.deployment().expect("it was registered");
        if record.kind == DeploymentKind::Rollback && record.status.state == DeploymentState::Completed {
            for node in 1..=NODES {
                for assignment in story.job.desired(&format!("n{node}")) {
                    prop_assert_eq!(assignment.version, record.to_version);
                }
            }
        } else {
            // Only where there was nothing to take back, or nothing to go back to, or it did not fail.
            let message = &record.status.message;
            let known = ["no node was touched", "no stable version", "turned off", "completed", "never starts another"];
            prop_assert!(known.iter().any(|why| message.contains(why)), "{}", message);
        }
    }

    /// Law 11: every report that was ever delivered, delivered again, changes nothing.
    #[test]
    fn reports_of_old_change_nothing(script in script()) {
        let mut story = play(&script)?;
        let before = story.job.snapshot();
        let (now, reports) = (story.now, story.delivered.clone());
        for report in reports.iter().rev().chain(&reports) {
            let step = story.job.step(now, Input::Reports(std::slice::from_ref(report)));
            let (entries, _) = step.expect("reports are never refused").split();
            prop_assert!(entries.is_empty(), "{:?} led to {:?}", report, entries);
        }
        prop_assert_eq!(story.job.snapshot(), before);
    }

    /// Law 12: a clock that is set back fires nothing, and the same time twice does nothing.
    #[test]
    fn a_clock_set_back_fires_nothing(script in script(), back in 1..100_000_000_u64) {
        let mut story = play(&script)?;
        one(&mut story, "pass 0s")?;
        let seq = story.job.seq();
        one(&mut story, "pass 0s")?;
        prop_assert_eq!(story.job.seq(), seq, "the same time twice");
        one(&mut story, &format!("clock back {back}ms"))?;
        let fired = story.log[seq as usize..].iter().filter(|e| e.event.kind() != "clock_set_back");
        prop_assert_eq!(fired.count(), 0);
    }

    /// A wake-up that is waited for is one at which something happens, and before it nothing does.
    #[test]
    fn nothing_happens_before_the_wake_up(script in script()) {
        let mut story = play(&script)?;
        one(&mut story, "pass 0s")?;
        let Some(wake) = story.job.wake() else {
            let seq = story.job.seq();
            one(&mut story, "pass 100h")?;
            prop_assert_eq!(story.job.seq(), seq, "without a wake-up time does nothing");
            return Ok(());
        };
        let left = wake.as_millis() - story.now.as_millis();
        prop_assert!(left > 0);
        let seq = story.job.seq();
        one(&mut story, &format!("pass {}ms", left - 1))?;
        prop_assert_eq!(story.job.seq(), seq, "too early");
        one(&mut story, "pass 1ms")?;
        prop_assert!(story.job.seq() > seq, "woken for nothing");
    }

    /// Who scales down ends what does not run before what does.
    #[test]
    fn a_scaling_leaves_what_runs(script in script(), replicas in 0..=8_u32) {
        // Work that is done is not to be lost either, and cannot be told apart from outside.
        let batch = script.0.iter().any(|line| line.contains("batch"));
        let mut story = play(&script)?;
        if batch || story.job.waiting_on().is_some() {
            return Ok(());
        }
        // Where a node may hold no more than one, what an earlier version had there besides goes, whatever it runs.
        let placement = story.job.membership().map(|members| members.placement);
        if matches!(placement, Some(Placement::Replicas { distinct: true, .. })) {
            return Ok(());
        }
        let running = |story: &Story| -> usize {
            let ready = story.job.nodes().filter(|n| story.job.presence(n) == Some(Presence::Ready));
            ready.map(|node| story.job.desired(node).len()).sum()
        };
        let before = running(&story);
        let scaled = Command::Scale { replicas };
        if story.step(scaled.into()).is_ok() {
            let (after, least) = (running(&story), before.min(replicas as usize));
            prop_assert!(after >= least, "{before} ran, {after} run");
        }
    }

    /// A rejected command changes nothing, and a plan changes nothing either.
    #[test]
    fn a_plan_is_what_then_happens(nodes in 1..=NODES, rollout in rollout(), placement in placement(), zones in 1..4_u32) {
        let mut lines: Vec<String> = (1..=nodes).map(|n| format!("nodes n{n} zone=z{}", n % zones)).collect();
        lines.push(format!("deploy v1 {rollout}{placement}"));
        let mut story = play(&Script(lines))?;
        finish(&mut story)?;
        let before = story.job.snapshot();
        let deploy = format!("v2 {rollout}{placement}");
        let request = story.registration(&deploy).map_err(TestCaseError::fail)?;
        let plan = story.job.plan(story.now, request).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(story.job.snapshot(), before, "a plan changes nothing");
        let from = story.log.len();
        one(&mut story, &format!("deploy {deploy}"))?;
        if story.job.waiting_on() != Some(WaitingOn::Executions) {
            finish(&mut story)?;
        }
        let waves: Vec<Vec<String>> = story.waves_since(from);
        let planned: Vec<Vec<String>> = plan.waves.into_iter().map(|w| w.nodes).collect();
        prop_assert_eq!(waves, planned);
    }

    /// The plan of a promotion, and of going on after a pause, is what then happens.
    #[test]
    fn a_plan_of_the_rest_is_what_then_happens(
        nodes in 2..=NODES,
        canaries in 1..4_u32,
        waves in 0..4_u32,
        placement in placement(),
        paused in any::<bool>(),
    ) {
        let mut story = play(&Script(vec![
            format!("nodes n1..n{nodes}"),
            format!("deploy v1{placement}"),
            "everyone started".to_owned(),
            format!("deploy v2 canary {canaries} waves={waves}{placement}"),
        ]))?;
        for _ in 0..20 {
            if story.job.outstanding().next().is_some() {
                one(&mut story, "wave stays healthy 30s")?;
            }
        }
        prop_assume!(story.job.waiting_on() == Some(WaitingOn::Promotion));
        let deployment = story.job.deployments().next().expect("it waits");
        let mut command = Command::Promote(deployment.id);
        if paused {
            one(&mut story, "promote")?;
            one(&mut story, "pause")?;
            if story.job.waiting_on() != Some(WaitingOn::Resume) {
                return Ok(());
            }
            command = Command::Resume(deployment.id);
        }
        let plan = story.job.plan(story.now, command.clone().into()).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!((plan.from_version, plan.to_version), (1, 2));
        let from = story.log.len();
        story.step(command.into()).map_err(TestCaseError::fail)?;
        finish(&mut story)?;
        let planned: Vec<Vec<String>> = plan.waves.into_iter().map(|w| w.nodes).collect();
        prop_assert_eq!(story.waves_of(deployment.number, from), planned);
    }

    /// Whatever is said, a person can stop it all: a cancel is never refused while something is under way.
    #[test]
    fn a_cancel_always_fits(script in script()) {
        let mut story = play(&script)?;
        let Some(record) = story.job.deployment().filter(|r| !r.status.state.is_final()) else {
            return Ok(());
        };
        story.step(Command::Cancel(record.id).into()).map_err(TestCaseError::fail)?;
        prop_assert!(story.job.waiting_on().is_none());
    }
}
