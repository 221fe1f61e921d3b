//! The engine on a real SQLite file, with agents that are tasks in this process.

mod disk;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use orchestrator_api::engine::{EngineError, Execution, Said, Settings};
use orchestrator_api::list::{Condition, Order, Query};
use orchestrator_core::fleet::{self, FleetSettings};
use orchestrator_core::{
    Command, DeploymentId, DeploymentKind, DeploymentState, Interval, Observation, Rejection,
    Request, Span,
};
use world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_promoted_and_goes_on_after_a_restart() {
    let mut world = World::new().await;
    world.join(6, &[("zone", "a")]).await;
    let first = world.register("web", 1, "immediate").await;
    world.ends(first, DeploymentState::Completed).await;

    let second = world.register("web", 2, "canary").await;
    world
        .until(second, |record| {
            record["status"]["waiting_on"] == "promotion"
        })
        .await;
    let mut before = world.record(second).await;
    world.restart().await;
    let mut after = world.record(second).await;
    // That nobody listened for a while is a fact of its own.
    for record in [&mut before, &mut after] {
        let status = record["status"].as_object_mut().expect("it is a record");
        status.remove("revision");
        status.remove("updated_at");
    }
    assert_eq!(after, before, "a restart changes nothing");
    world
        .command("web", Command::Promote(second))
        .await
        .expect("the canary is well");
    world.ends(second, DeploymentState::Completed).await;
    assert_eq!(world.runs("web").await, BTreeSet::from([2]));

    let store = world.store();
    let rows = store.deployments(Query {
        condition: Condition::All(Vec::new()),
        order: Order::default(),
        after: None,
        limit: 10,
    });
    let rows = rows.await.expect("it lists").rows;
    let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    assert_eq!(ids, [second, first], "the newest first");
    for row in rows {
        assert_eq!(
            row.record,
            world.record_text(row.id).await,
            "the row is the record"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_version_is_taken_back_and_its_targets_can_be_looked_at_later() {
    let world = World::new().await;
    world.join(5, &[]).await;
    let first = world.register("web", 1, "rolling").await;
    world.ends(first, DeploymentState::Completed).await;
    let bad = world.register("web", World::BAD, "rolling").await;
    world.ends(bad, DeploymentState::Failed).await;
    let record = world.record(bad).await;
    let back = record["rolled_back_by"].as_str().expect("it is taken back");
    let back = back.parse().expect("an id");
    world.ends(back, DeploymentState::Completed).await;
    assert_eq!(world.runs("web").await, BTreeSet::from([1]));

    let targets = world.store().targets(bad, 0, 100).await.expect("it reads");
    assert_eq!(targets.len(), 5);
    let failed = targets
        .iter()
        .filter(|t| t.contains(r#""state":"failed""#))
        .count();
    assert_eq!(
        failed as u64,
        record["status"]["failed_nodes"].as_u64().expect("a count")
    );
    let events = world.store().events(bad, 0, 1000).await.expect("it reads");
    let revisions: Vec<u64> = events.iter().filter_map(|line| Some(line.of?.1)).collect();
    let last = record["status"]["revision"].as_u64().expect("a count");
    assert_eq!(
        revisions,
        (1..=last).collect::<Vec<_>>(),
        "an event for every revision"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_for_a_new_job_is_what_then_happens() {
    let world = World::new().await;
    world.join(7, &[]).await;
    let request = || Request::from(world.registration("web", 1, "canary"));
    let plan = world
        .handle()
        .plan(world.id("web"), request())
        .await
        .expect("it plans");
    assert_eq!(plan.kind, Some(DeploymentKind::Create));
    let none = world
        .handle()
        .look(world.id("web"), |job| job.version())
        .await;
    assert!(
        matches!(none, Err(EngineError::NoSuchJob(_))),
        "a plan begins no job"
    );

    let id = world.register("web", 1, "canary").await;
    world
        .until(id, |record| record["status"]["waiting_on"] == "promotion")
        .await;
    world
        .command("web", Command::Promote(id))
        .await
        .expect("the canary is well");
    world.ends(id, DeploymentState::Completed).await;
    let wave_of = |number: u32| -> Vec<String> {
        plan.waves
            .iter()
            .filter(|w| w.wave == number)
            .flat_map(|w| w.nodes.clone())
            .collect()
    };
    let handle = world.handle();
    let targets = handle.look(world.id("web"), |job| job.targets().collect::<Vec<_>>());
    for target in targets.await.expect("it is there") {
        assert!(
            wave_of(target.wave).contains(&target.node),
            "{target:?} {plan:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn going_back_to_another_selector_asks_the_fleet_who_matches() {
    let world = World::new().await;
    world.join(3, &[("disk", "ssd")]).await;
    world.join_named("h", 2, &[("disk", "hdd")]).await;
    let register = async |version: u32, disk: &str| {
        let mut spec = world.document("web", version, "immediate");
        spec["selector"] = format!("disk = {disk}").into();
        world.register_document(&spec).await
    };
    let first = register(1, "ssd").await;
    world.ends(first, DeploymentState::Completed).await;
    let second = register(2, "hdd").await;
    world.ends(second, DeploymentState::Completed).await;
    assert_eq!(world.running("web", 1).await, 0);
    let back = world
        .command("web", Command::RollBack { to: None })
        .await
        .expect("it goes back");
    let back = back.deployment.expect("it is shown").id;
    world.ends(back, DeploymentState::Completed).await;
    assert_eq!(
        (world.running("web", 1).await, world.running("web", 2).await),
        (3, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_is_lost_and_is_given_work_when_it_is_back() {
    let fleet = FleetSettings::new(Span::from_secs(1), Span::from_secs(3600));
    let settings = Settings {
        fleet: fleet.expect("it may be so"),
    };
    let world = World::with(settings).await;
    world.join(3, &[]).await;
    world.silence("n1").await;
    world
        .node_until("n1", |node| node.contains(r#""status":"disconnected""#))
        .await;
    let id = world.register("web", 1, "rolling").await;
    world.ends(id, DeploymentState::Completed).await;
    assert_eq!(world.record(id).await["status"]["skipped_nodes"], 1);
    world.listen("n1").await;
    world
        .told("n1", |desired| {
            desired.executions.iter().any(|e| e.version == 1)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn placed_executions_leave_a_drained_node() {
    let world = World::new().await;
    world.join(4, &[]).await;
    let mut spec = world.document("web", 1, "immediate");
    spec["replicas"] = 3.into();
    let id = world.register_document(&spec).await;
    world.ends(id, DeploymentState::Completed).await;
    let nodes = world.where_it_runs("web").await;
    let drained = nodes.iter().next().expect("it runs somewhere").clone();
    let name = drained.as_str().into();
    let drain = world
        .handle()
        .fleet(fleet::Input::Drain { name, key: None }, Some(World::who()))
        .await;
    drain.expect("it is there");
    world
        .told(&drained, |desired| desired.executions.is_empty())
        .await;
    let nodes = world.where_it_runs("web").await;
    assert_eq!(nodes.len(), 3);
    assert!(!nodes.contains(&drained));
    let audit = world.store().audited(None, 10).await.expect("it reads");
    assert!(
        audit
            .iter()
            .any(|(_, line)| line.record.contains(r#""action":"drain""#))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_has_changed_nothing() {
    let world = World::new().await;
    world.join(2, &[]).await;
    let id = world.register("web", 1, "immediate").await;
    world.ends(id, DeploymentState::Completed).await;
    let before = world.record(id).await;
    let why = world
        .command("web", Command::Promote(id))
        .await
        .expect_err("it is over");
    assert!(
        matches!(why, EngineError::Rejected(Rejection::Over { .. })),
        "{why}"
    );
    let why = world
        .command("nothing", Command::Restart)
        .await
        .expect_err("there is none");
    assert!(matches!(why, EngineError::NoSuchJob(_)), "{why}");
    let said = world.handle().report("stranger".into(), Vec::new()).await;
    assert!(matches!(said, Err(EngineError::Fleet(_))));
    assert_eq!(world.record(id).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_share_their_commits() {
    let world = World::new().await;
    world.join(2, &[]).await;
    let before = *world.store().position().borrow();
    let registrations = (0..64).map(|n| {
        let (handle, job) = (world.handle(), format!("job-{n}"));
        let command = world.registration(&job, 1, "immediate");
        let id = world.id(&job);
        tokio::spawn(async move { handle.command(id, command.into(), World::who()).await })
    });
    for registration in registrations.collect::<Vec<_>>() {
        let done = registration.await.expect("it ends").expect("it is taken");
        let id = done.answer.deployment.expect("it begins");
        world.ends(id, DeploymentState::Completed).await;
    }
    let changes = world
        .store()
        .changes(before, 10_000)
        .await
        .expect("it reads");
    let positions: Vec<u64> = changes.iter().map(|change| change.position).collect();
    assert!(positions.is_sorted(), "the feed is in order");
    let jobs: BTreeSet<_> = changes.iter().map(|change| change.log).collect();
    assert!(jobs.len() >= 64, "the feed misses nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_with_its_key_is_done_once_also_over_a_restart() {
    let mut world = World::new().await;
    world.join(2, &[]).await;
    let request = |world: &World| Request {
        key: Some("the-key".to_owned()),
        ..Request::from(world.registration("web", 1, "immediate"))
    };
    let (id, once) = (world.id("web"), request(&world));
    let first = world.handle().command(id.clone(), once, World::who()).await;
    let first = first.expect("it is taken").answer;
    world
        .ends(
            first.deployment.expect("it begins"),
            DeploymentState::Completed,
        )
        .await;
    world.restart().await;
    let again = request(&world);
    let again = world.handle().command(id, again, World::who()).await;
    assert_eq!(again.expect("it is taken").answer, first);
}

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_job_ends_when_every_node_says_that_it_stopped() {
    let world = World::new().await;
    world.join(3, &[]).await;
    for strategy in ["immediate", "rolling"] {
        let id = world.register(strategy, 1, strategy).await;
        world.ends(id, DeploymentState::Completed).await;
        let stopped = world.command(strategy, Command::Stop).await;
        let stopped = stopped.expect("it runs").answer.deployment;
        let stopped = stopped.expect("it begins");
        world.ends(stopped, DeploymentState::Completed).await;
        assert_eq!(world.record(stopped).await["status"]["updated_nodes"], 3);
        assert_eq!(world.running(strategy, 1).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_again_is_no_news_to_who_listens() {
    let world = World::new().await;
    world.join(2, &[]).await;
    let id = world.register("web", 1, "immediate").await;
    world.ends(id, DeploymentState::Completed).await;
    let settled = world.handle().connect("n1".into()).await;
    let settled = settled.expect("it is there").borrow().revision;
    // Something else is written meanwhile.
    let drain = fleet::Input::Drain {
        name: "n2".into(),
        key: None,
    };
    let drained = world.handle().fleet(drain, Some(World::who())).await;
    drained.expect("it is there");
    let again = world.handle().connect("n1".into()).await;
    assert_eq!(again.expect("it is there").borrow().revision, settled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_taken_back_once_and_only_while_it_is_the_last() {
    let world = World::new().await;
    world.join(2, &[]).await;
    let mut ids = Vec::new();
    for version in 1..=3 {
        let id = world.register("web", version, "immediate").await;
        world.ends(id, DeploymentState::Completed).await;
        ids.push(id);
    }
    let take_back = async |id| {
        let handle = world.handle();
        handle.take_back(id, None, None, None, World::who()).await
    };
    let refused = take_back(ids[1]).await;
    assert!(matches!(refused, Err(EngineError::GaveWay { last, .. }) if last == ids[2]));
    let back = take_back(ids[2]).await.expect("it is the last");
    let again = take_back(ids[2]).await.expect("it is taken back already");
    assert_eq!(again.answer.deployment, back.answer.deployment);
    assert!(back.answer.changed && !again.answer.changed);
    let back = back.answer.deployment.expect("it begins");
    world.ends(back, DeploymentState::Completed).await;
    assert_eq!(world.runs("web").await, BTreeSet::from([2]));
}

/// A node that says nothing by itself, and a job that is done when it has said once that it is well.
async fn alone(world: &World) {
    let join = fleet::Input::Join {
        name: "n1".into(),
        labels: Default::default(),
        facts: Default::default(),
        leaving: false,
    };
    world.handle().fleet(join, None).await.expect("it joins");
}

async fn register_easy(world: &World, version: u32) -> DeploymentId {
    let mut document = world.document("web", version, "immediate");
    document["rollout"]["health_check"]["min_healthy_time"] = "0s".into();
    world.register_document(&document).await
}

async fn says_that_it_is_well(world: &World, execution: &Execution, number: u32) {
    let well = Interval {
        checks: Some(true),
        requests: None,
    };
    let said = Said {
        job: world.id("web"),
        slot: execution.slot,
        generation: execution.generation,
        target: execution.target,
        number,
        what: Observation::Interval(well),
    };
    let said = world.handle().report("n1".into(), vec![said]).await;
    said.expect("it is taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_answered_sees_what_he_said() {
    let world = World::new().await;
    let handle = world.handle();
    alone(&world).await;
    // What is answered too early is seen only sometimes.
    for version in 1..=100 {
        let id = register_easy(&world, version).await;
        let desired = handle.connect("n1".into()).await.expect("it joined");
        let execution = desired.borrow().executions[0].clone();
        says_that_it_is_well(&world, &execution, 1).await;
        let shown = handle.deployment(id).await.expect("it is read");
        let state = shown.expect("it is there").state;
        assert_eq!(state, DeploymentState::Completed, "version {version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_of_a_deployment_that_is_over_is_told_so_once() {
    let world = World::new().await;
    alone(&world).await;
    let id = register_easy(&world, 1).await;
    let desired = world.handle().connect("n1".into()).await;
    let mut desired = desired.expect("it joined");
    let execution = desired.borrow_and_update().executions[0].clone();
    says_that_it_is_well(&world, &execution, 1).await;
    world.ends(id, DeploymentState::Completed).await;
    assert!(
        !desired.has_changed().expect("it listens"),
        "not at the end"
    );
    says_that_it_is_well(&world, &execution, 2).await;
    desired.changed().await.expect("it listens");
    let told = desired.borrow_and_update().executions[0].clone();
    let nobody = Execution {
        target: None,
        ..execution.clone()
    };
    assert_eq!(told, nobody);
    // It was under way. Who asks after that is answered in a later turn.
    says_that_it_is_well(&world, &execution, 3).await;
    let _ = world
        .handle()
        .connect("n1".into())
        .await
        .expect("it joined");
    assert!(!desired.has_changed().expect("it listens"));
}
