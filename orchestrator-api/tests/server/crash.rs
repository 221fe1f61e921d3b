//! Servers killed at random moments, while operators and agents go on: what was answered is there afterwards.
//!
//! `CRASHES=200` in the environment makes a long run of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::client::{Client, Gone, Reply};
use crate::program::{Program, dir};

const CRASHES: usize = 10;
const NODES: usize = 6;
/// After so long without news an agent keeps its lease.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Between two tries to reach a server that is not there.
const AGAIN: Duration = Duration::from_millis(20);

/// A job that goes from version to version. Every fourth version is bad, and every third one is paused for a moment.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    canaries: u64,
    max_parallel: u64,
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "one",
        canaries: 0,
        max_parallel: 1,
    },
    Kind {
        name: "two",
        canaries: 0,
        max_parallel: 2,
    },
    Kind {
        name: "canary",
        canaries: 1,
        max_parallel: 3,
    },
];

impl Kind {
    fn of(job: &str) -> &'static Self {
        let name = job.strip_prefix("default/").expect("its namespace");
        let mut kinds = KINDS.iter();
        kinds.find(|kind| kind.name == name).expect("one of them")
    }

    fn document(&self, number: u64) -> Value {
        let strategy = if self.canaries > 0 {
            "canary"
        } else {
            "rolling"
        };
        let mut rollout = json!({
            "strategy": strategy, "max_parallel": self.max_parallel,
            "health_check": { "deadline": "10m", "min_healthy_time": "0s", "failure_threshold": 1 },
        });
        if self.canaries > 0 {
            rollout["canary_count"] = self.canaries.into();
        }
        let config = json!({ "number": number, "bad": number.is_multiple_of(4) });
        json!({ "job_id": self.name, "driver": "exec", "config": config, "rollout": rollout })
    }
}

/// What was answered.
#[derive(Clone, Default)]
struct Ledger {
    /// The deployment of each version.
    versions: BTreeMap<(&'static str, u64), String>,
    deployments: BTreeMap<String, Seen>,
    /// The targets of each version that were said to be well.
    well: BTreeMap<(&'static str, u64), BTreeSet<u64>>,
    /// The slots of each version that were told to begin, and have not yet said how it goes.
    begun: BTreeMap<(&'static str, u64), BTreeSet<u64>>,
    /// The furthest position of the store that anybody heard of.
    position: u64,
    answers: u64,
    reports: u64,
}

#[derive(Clone, Default)]
struct Seen {
    revision: u64,
    over: Option<String>,
    promoted: bool,
    paused: bool,
    /// Nothing more can become of it, and it was found so after a crash.
    checked: bool,
}

/// What operators and agents share.
struct World {
    server: watch::Sender<Client>,
    ledger: Mutex<Ledger>,
    answers: watch::Sender<u64>,
    finishing: watch::Sender<bool>,
}

impl World {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("nobody panics with it")
    }

    fn note(&self, note: impl FnOnce(&mut Ledger)) {
        let mut ledger = self.ledger();
        note(&mut ledger);
        ledger.answers += 1;
        self.answers.send_replace(ledger.answers);
    }

    /// Says it until it is answered, by whichever server there is then.
    async fn say(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> Reply {
        let headers: Vec<_> = key
            .map(|key| ("idempotency-key", key))
            .into_iter()
            .collect();
        loop {
            let client = self.server.borrow().clone();
            match client.send(method.clone(), path, &headers, body).await {
                Ok(reply) => return reply,
                Err(Gone) => sleep(AGAIN).await,
            }
        }
    }
}

/// Registers one version after the other, and sees each of them to its end.
async fn operate(world: Arc<World>, kind: &'static Kind) {
    for number in 1.. {
        if *world.finishing.borrow() {
            return;
        }
        let (key, document) = (format!("{}-{number}", kind.name), kind.document(number));
        let said = world
            .say(Method::POST, "/v1/jobs", Some(&key), Some(&document))
            .await;
        assert!([200, 201].contains(&said.status), "{:#}", said.body);
        // Said twice where the first answer was lost, and yet carried out once.
        assert_eq!(said.body["version"], number, "{:#}", said.body);
        let id = said.body["deployment_id"]
            .as_str()
            .expect("an id")
            .to_owned();
        world.note(|ledger| {
            ledger.versions.insert((kind.name, number), id.clone());
            ledger.deployments.entry(id.clone()).or_default();
        });
        let mut record = follow(&world, kind, &id, number).await;
        if let Some(back) = record["rolled_back_by"].as_str().map(str::to_owned) {
            record = follow(&world, kind, &back, 0).await;
        }
        assert_eq!(record["status"]["state"], "completed", "{record:#}");
    }
}

/// Sees a deployment to its end, and what an operator has to do to it done.
async fn follow(world: &World, kind: &Kind, id: &str, number: u64) -> Value {
    let path = format!("/v1/deployments/{id}");
    let command = async |what: &str| {
        let key = format!("{id}-{what}");
        let path = format!("{path}/{what}");
        world
            .say(Method::POST, &path, Some(&key), Some(&json!({})))
            .await
    };
    let mut revision = 0;
    loop {
        let wait = format!("{path}?revision={revision}&wait=10s");
        let record = world.say(Method::GET, &wait, None, None).await.is(200)["deployment"].take();
        let status = &record["status"];
        revision = status["revision"].as_u64().expect("a revision");
        let state = status["state"].as_str().expect("a state").to_owned();
        world.note(|ledger| see(ledger.seen(id), kind, &record));
        if ["completed", "failed", "canceled"].contains(&state.as_str()) {
            return record;
        }
        if number.is_multiple_of(3) && revision < 4 && number > 0 {
            let paused = command("pause").await;
            if paused.status == 200 {
                world.note(|ledger| ledger.seen(id).paused = true);
                world.ledger().seen(id).paused = false;
                let resumed = command("resume").await;
                assert!([200, 409].contains(&resumed.status), "{:#}", resumed.body);
            }
        }
        let canaries = kind.canaries > 0 && status["canary_promoted"] == false;
        let (updated, in_flight) = (&status["updated_nodes"], &status["in_flight_nodes"]);
        if canaries && number > 0 && *updated == kind.canaries && *in_flight == 0 {
            let promoted = command("promote").await;
            if promoted.status == 200 {
                world.note(|ledger| ledger.seen(id).promoted = true);
            }
        }
    }
}

impl Ledger {
    fn seen(&mut self, id: &str) -> &mut Seen {
        self.deployments.entry(id.to_owned()).or_default()
    }
}

/// Notes what was answered of a deployment. Nothing of it goes back, and never is more under way than may be.
fn see(seen: &mut Seen, kind: &Kind, record: &Value) {
    let status = &record["status"];
    let revision = status["revision"].as_u64().expect("a revision");
    assert!(
        revision >= seen.revision,
        "it was at {}: {record:#}",
        seen.revision
    );
    seen.revision = revision;
    let state = status["state"].as_str().expect("a state");
    if ["completed", "failed", "canceled"].contains(&state) {
        let over = seen.over.get_or_insert_with(|| state.to_owned());
        assert_eq!(over, state, "{record:#}");
    } else {
        assert_eq!(seen.over, None, "it was over: {record:#}");
    }
    assert!(
        !seen.promoted || status["canary_promoted"] == true,
        "it was promoted: {record:#}"
    );
    assert!(
        !seen.paused || state == "paused",
        "it was paused: {record:#}"
    );
    let in_flight = status["in_flight_nodes"].as_u64().expect("a count");
    assert!(
        in_flight <= kind.max_parallel,
        "more than {}: {record:#}",
        kind.max_parallel
    );
}

/// A node that runs nothing, and says that it does.
struct Agent {
    world: Arc<World>,
    name: String,
    /// The newest generation that it was told, and whether its report was taken, by job and slot.
    told: BTreeMap<(String, u64), (u64, bool)>,
    revision: u64,
}

impl Agent {
    async fn run(mut self) {
        loop {
            let client = self.world.server.borrow().clone();
            let Err(Gone) = self.listen(&client).await;
            sleep(AGAIN).await;
        }
    }

    async fn listen(&mut self, client: &Client) -> Result<std::convert::Infallible, Gone> {
        let join = json!({ "name": self.name });
        client.post("/v1/agent/join", join).await?.is(200);
        let path = format!("/v1/agent/stream?node={}", self.name);
        let mut stream = client.stream(&path).await?;
        loop {
            let reports = match timeout(HEARTBEAT, stream.next()).await {
                Ok(Some(desired)) => self.begin(&desired),
                Ok(None) => return Err(Gone),
                Err(_) => Vec::new(),
            };
            self.report(client, reports).await?;
        }
    }

    /// Takes in what it should run, and answers what there is to report.
    fn begin(&mut self, desired: &Value) -> Vec<Value> {
        let revision = desired["revision"].as_u64().expect("a revision");
        assert!(
            revision >= self.revision,
            "it was told {} before: {desired:#}",
            self.revision
        );
        self.revision = revision;
        let mut ledger = self.world.ledger();
        ledger.position = ledger.position.max(revision);
        let mut reports = Vec::new();
        for execution in desired["executions"].as_array().expect("executions") {
            let number = |name: &str| execution[name].as_u64();
            let job = execution["job"].as_str().expect("a job").to_owned();
            let (kind, slot) = (Kind::of(&job), number("slot").expect("a slot"));
            let version = number("version").expect("a version");
            let generation = number("generation").expect("a generation");
            let told = self.told.entry((job.clone(), slot)).or_insert((0, false));
            assert!(
                generation >= told.0,
                "it was told {} before: {desired:#}",
                told.0
            );
            let Some(target) = number("target") else {
                continue;
            };
            if generation > told.0 {
                *told = (generation, false);
                let of = (kind.name, version);
                let newest = ledger.begun.range((kind.name, 0)..=(kind.name, u64::MAX));
                let newest = newest
                    .last()
                    .is_none_or(|(&(_, newest), _)| version >= newest);
                let begun = ledger.begun.entry(of).or_default();
                begun.insert(slot);
                // One that goes back to an older version may go faster.
                let most = kind.max_parallel as usize;
                assert!(
                    !newest || begun.len() <= most,
                    "{} begin {of:?} at once",
                    begun.len()
                );
            }
            if told.1 {
                continue;
            }
            let workload = &desired["workloads"][&job][version.to_string()];
            let checks = workload["config"]["bad"] == false;
            reports.push(json!({
                "job": job, "slot": slot, "generation": generation, "target": target,
                "number": 1, "observation": { "kind": "interval", "checks": checks },
                "version": version,
            }));
        }
        reports
    }

    async fn report(&mut self, client: &Client, mut reports: Vec<Value>) -> Result<(), Gone> {
        let mut about = Vec::new();
        for report in &mut reports {
            let version = report["version"].take().as_u64().expect("a version");
            report.as_object_mut().expect("an object").remove("version");
            let kind = Kind::of(report["job"].as_str().expect("a job"));
            let slot = report["slot"].as_u64().expect("a slot");
            let begun = &mut self.world.ledger().begun;
            begun.entry((kind.name, version)).or_default().remove(&slot);
            about.push((kind.name, version));
        }
        let body = json!({ "node": self.name, "reports": reports });
        client.post("/v1/agent/reports", body).await?.is(204);
        self.world.note(|ledger| {
            for (report, about) in reports.iter().zip(about) {
                let number = |name: &str| report[name].as_u64().expect("a number");
                let job = report["job"].as_str().expect("a job").to_owned();
                let told = self.told.get_mut(&(job, number("slot")));
                told.expect("it was told to").1 = true;
                ledger.reports += 1;
                if report["observation"]["checks"] == true {
                    ledger
                        .well
                        .entry(about)
                        .or_default()
                        .insert(number("target"));
                }
            }
        });
        Ok(())
    }
}

/// What was answered before is there now. Of what was found over before, only where `all` of it is to be looked at.
async fn check(client: &Client, world: &World, before: &Ledger, all: bool) {
    let there = "the server answers: nobody kills it now";
    let metrics = client.get("/metrics").await.expect(there).is(200);
    let metrics = metrics.as_str().expect("text");
    let position = metrics
        .lines()
        .find_map(|line| line.strip_prefix("orchestrator_store_position "));
    let position: u64 = position.expect("it is counted").parse().expect("a number");
    assert!(
        position >= before.position,
        "{position}, and {} was heard of",
        before.position
    );

    for kind in &KINDS {
        let Some((&(_, newest), _)) = before
            .versions
            .range((kind.name, 0)..=(kind.name, u64::MAX))
            .last()
        else {
            continue;
        };
        let job = client
            .get(&format!("/v1/jobs/default/{}", kind.name))
            .await
            .expect(there)
            .is(200);
        assert!(
            job["job"]["version"].as_u64() >= Some(newest),
            "{newest}: {job:#}"
        );
    }
    for (&(name, version), id) in &before.versions {
        let seen = &before.deployments[id];
        if seen.checked && !all {
            continue;
        }
        let path = format!("/v1/deployments/{id}");
        let record = client.get(&path).await.expect(there).is(200)["deployment"].take();
        let kind = KINDS
            .iter()
            .find(|kind| kind.name == name)
            .expect("one of them");
        see(&mut seen.clone(), kind, &record);
        assert_eq!(record["to_version"], version);
        let status = &record["status"];
        let events = client
            .all(&format!("{path}/events"), "events")
            .await
            .expect(there);
        let revisions = events
            .iter()
            .map(|event| event["revision"].as_u64().expect("a number"));
        let last = status["revision"].as_u64().expect("a revision");
        // While one page was read after the other more may have come.
        let revisions: Vec<u64> = revisions.take(last as usize).collect();
        assert!(
            revisions.iter().copied().eq(1..=last),
            "{last}: {revisions:?}"
        );

        let targets = client
            .all(&format!("{path}/targets"), "targets")
            .await
            .expect(there);
        if status["state"] != "failed" {
            for &target in before.well.get(&(name, version)).into_iter().flatten() {
                let target = &targets[target as usize];
                assert_eq!(
                    target["state"], "updated",
                    "it was said to be well: {target:#} {record:#}"
                );
            }
        }
        let under_way =
            |target: &&Value| target["state"] == "updating" || target["state"] == "observing";
        let under_way = targets.iter().filter(under_way).count();
        assert!(
            under_way as u64 <= kind.max_parallel || status["state"] == "failed",
            "{targets:#?}"
        );
        world.ledger().seen(id).checked |= seen.over.is_some();
    }
}

/// Random enough for moments.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_kills_at_random_moments() {
    let crashes = std::env::var("CRASHES").ok();
    let crashes = crashes.map_or(CRASHES, |text| text.parse().expect("CRASHES is a number"));
    let dir = dir();
    let mut server = Program::start(&dir);
    let begun = server.read_and_written();
    let world = Arc::new(World {
        server: watch::Sender::new(server.client.clone()),
        ledger: Mutex::default(),
        answers: watch::Sender::new(0),
        finishing: watch::Sender::new(false),
    });
    let (mut operators, mut agents) = (JoinSet::new(), JoinSet::new());
    for number in 1..=NODES {
        let agent = Agent {
            world: world.clone(),
            name: format!("n{number}"),
            told: BTreeMap::new(),
            revision: 0,
        };
        agents.spawn(agent.run());
    }
    // Before that a version would have no nodes to go to.
    while server
        .client
        .all("/v1/nodes", "nodes")
        .await
        .expect("an answer")
        .len()
        < NODES
    {
        tokio::task::yield_now().await;
    }
    for kind in &KINDS {
        operators.spawn(operate(world.clone(), kind));
    }

    let mut dice = Dice(1);
    for _ in 0..crashes {
        // Each server gets something done; then one moment is as good as another.
        let before = world.ledger().answers;
        let mut answers = world.answers.subscribe();
        tokio::select! {
            answered = answers.wait_for(|answers| *answers > before) => drop(answered.expect("answers")),
            Some(broken) = agents.join_next() => broken.expect("an agent goes on for ever"),
            Some(broken) = operators.join_next() => broken.expect("an operator goes on until the end"),
        }
        sleep(Duration::from_millis(dice.below(300))).await;
        server.kill();
        // What was sent before its end may be read after it.
        let ledger = world.ledger().clone();
        if dice.below(4) == 0 {
            Program::kill_early(&dir, dice.below(begun));
        }
        server = Program::start(&dir);
        check(&server.client, &world, &ledger, false).await;
        world.server.send_replace(server.client.clone());
    }
    world.finishing.send_replace(true);
    while let Some(ended) = operators.join_next().await {
        ended.expect("every deployment comes to its end");
    }
    assert!(
        agents.try_join_next().is_none(),
        "an agent goes on for ever"
    );
    let ledger = world.ledger().clone();
    check(&server.client, &world, &ledger, true).await;
    agents.shutdown().await;
    let Ledger {
        versions,
        deployments,
        answers,
        reports,
        position,
        ..
    } = ledger;
    println!(
        "{crashes} crashes: {answers} answers, {} versions, {} deployments, {reports} reports, position {position}",
        versions.len(),
        deployments.len(),
    );
    server.stop().await;
}
