//! Servers killed at random moments, and while a deployment is paused or its deadline runs; meanwhile operators and agents
//! go on. What was answered is there afterwards, and who did it.
//!
//! `CRASHES=200` in the environment makes a long run of it.

mod ledger;
mod releases;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::ledger::{Ledger, check, see};
use crate::client::{Client, Gone, Reply};
use crate::program::{Program, dir};

const CRASHES: usize = 10;
const NODES: usize = 6;
/// After so long without news an agent keeps its lease.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Between two tries to reach a server that is not there.
const AGAIN: Duration = Duration::from_millis(20);
/// For how long a deployment is paused: long enough for a kill.
const PAUSED: Duration = Duration::from_millis(50);
/// Between two things that are done to what no deployment needs.
const HOUSEWORK: Duration = Duration::from_millis(20);
/// The deadline of what nobody reports of, where it is waited for.
const SHORT: &str = "500ms";
/// It has passed by then, on a machine of any speed, also if each server was killed that could have noticed.
const LONG_PAST: Duration = Duration::from_secs(120);
/// A node that no job may use.
const SPARE: &str = "spare";
/// The name of the job that is not only rolled out.
const WILD: &str = "wild";
const WILD_REPLICAS: u64 = 3;

/// A job that goes from version to version. Every fourth version is bad, and every third one is paused for a moment.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    canaries: u64,
    max_parallel: u64,
}

const KINDS: [Kind; 6] = [
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
    // Of this one a version is canceled, failed, restarted, scaled, stopped, or runs out of time.
    Kind {
        name: WILD,
        canaries: 0,
        max_parallel: NODES as u64,
    },
    // These two go together.
    Kind {
        name: releases::JOBS[0],
        canaries: 0,
        max_parallel: 3,
    },
    Kind {
        name: releases::JOBS[1],
        canaries: 0,
        max_parallel: 2,
    },
];

impl Kind {
    fn of(job: &str) -> &'static Self {
        Self::named(job.strip_prefix("default/").expect("its namespace"))
    }

    fn named(name: &str) -> &'static Self {
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
        json!({
            "job_id": self.name, "driver": "exec", "selector": "!spare", "config": config, "rollout": rollout,
        })
    }
}

/// A version of the job that is not only rolled out. Of one that is silent nobody reports.
fn wild(number: &str, silent: bool, deadline: &str) -> Value {
    json!({
        "job_id": WILD, "driver": "exec", "selector": "!spare", "replicas": WILD_REPLICAS,
        "config": { "number": number, "bad": false, "silent": silent },
        "rollout": {
            "strategy": "rolling", "max_parallel": NODES, "max_failed_nodes": 0, "on_failure": "fail",
            "health_check": { "deadline": deadline, "min_healthy_time": "0s", "failure_threshold": 1 },
        },
    })
}

/// What a kill may wait for.
#[derive(Clone, Copy, Default)]
struct News {
    answers: u64,
    paused: bool,
    timed: bool,
}

/// What operators and agents share.
struct World {
    server: watch::Sender<Client>,
    ledger: Mutex<Ledger>,
    news: watch::Sender<News>,
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
        let open = || {
            ledger
                .deployments
                .values()
                .filter(|seen| seen.over.is_none())
        };
        self.news.send_replace(News {
            answers: ledger.answers,
            paused: open().any(|seen| seen.paused),
            timed: open().any(|seen| seen.timed),
        });
    }

    /// Changes something, once however often it has to be said, and notes that it was done.
    async fn change(&self, action: &'static str, name: &str, path: &str, body: &Value) -> Reply {
        let reply = self.say(Method::POST, path, Some(name), Some(body)).await;
        if reply.status < 300 {
            self.ledger().deeds.insert(name.to_owned(), action);
        }
        reply
    }

    /// Says it until it is answered, by whichever server there is then. What has a name is carried out once, and is known
    /// by it in the audit log.
    async fn say(
        &self,
        method: Method,
        path: &str,
        name: Option<&str>,
        body: Option<&Value>,
    ) -> Reply {
        let headers = name.map(|name| [("idempotency-key", name), ("x-request-id", name)]);
        let headers = headers.iter().flatten().copied().collect::<Vec<_>>();
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
        let (name, document) = (format!("{}-{number}", kind.name), kind.document(number));
        let said = world.change("register", &name, "/v1/jobs", &document).await;
        assert!([200, 201].contains(&said.status), "{:#}", said.body);
        // Said twice where the first answer was lost, and yet carried out once.
        assert_eq!(said.body["version"], number, "{:#}", said.body);
        let id = said.body["deployment_id"]
            .as_str()
            .expect("an id")
            .to_owned();
        world.note(|ledger| {
            ledger.versions.insert((kind.name, number), id.clone());
            ledger.seen(&id);
        });
        let mut record = follow(&world, kind, &id, number).await;
        if let Some(back) = record["rolled_back_by"].as_str().map(str::to_owned) {
            record = follow(&world, kind, &back, 0).await;
        }
        assert_eq!(record["status"]["state"], "completed", "{record:#}");
    }
}

/// Says to a job of its own what else there is to say to jobs and deployments, one after the other.
async fn meddle(world: Arc<World>) {
    for round in 0.. {
        let register = async |what: &str, silent: bool, deadline: &str| {
            world.ledger().stands.wild = None;
            let name = format!("wild-{round}-{what}");
            let document = wild(&name, silent, deadline);
            let said = world.change("register", &name, "/v1/jobs", &document).await;
            assert_eq!(said.status, 201, "{:#}", said.body);
            begun(&world, &said.body, None)
        };
        let command = async |what: &'static str, body: Value| {
            world.ledger().stands.wild = None;
            let name = format!("wild-{round}-to-{what}");
            let path = format!("/v1/jobs/default/{WILD}/{what}");
            world.change(what, &name, &path, &body).await.is(200)
        };
        let completed = async |(id, version): (String, u64), executions: u64| {
            let record = follow(&world, &KINDS[3], &id, 0).await;
            assert_eq!(record["status"]["state"], "completed", "{record:#}");
            world.ledger().stands.wild = Some((version, executions));
        };
        for (what, state) in [("cancel", "canceled"), ("fail", "failed")] {
            if *world.finishing.borrow() {
                return;
            }
            let (id, _) = register(what, true, "1h").await;
            let (name, path) = (
                format!("{id}-{what}"),
                format!("/v1/deployments/{id}/{what}"),
            );
            let said = world.change(what, &name, &path, &json!({})).await.is(200);
            assert_eq!(said["deployment"]["status"]["state"], state, "{said:#}");
            world.note(|ledger| see(ledger.seen(&id), &said["deployment"]));
        }

        let (id, _) = register("late", true, SHORT).await;
        world.note(|ledger| ledger.seen(&id).timed = true);
        let ended = timeout(LONG_PAST, follow(&world, &KINDS[3], &id, 0)).await;
        let record = ended.expect("its deadline passes whoever serves");
        assert_eq!(record["status"]["state"], "failed", "{record:#}");

        let (id, version) = register("well", false, "10m").await;
        completed((id, version), WILD_REPLICAS).await;
        let replicas = [2, 4, 5][round % 3];
        let scaled = command("scale", json!({ "replicas": replicas })).await;
        assert_eq!(scaled["changed"], true, "{scaled:#}");
        world.ledger().stands.wild = Some((version, replicas));
        let restarted = command("restart", json!({})).await;
        let restart = begun(&world, &restarted, Some(("restart", version)));
        completed((restart.0, version), replicas).await;
        let stopped = command("stop", json!({})).await;
        let stop = begun(&world, &stopped, Some(("stop", 0)));
        completed((stop.0, 0), 0).await;
    }
}

/// Notes the deployment that a command began, and gives its id and version.
fn begun(world: &World, said: &Value, what: Option<(&'static str, u64)>) -> (String, u64) {
    let id = said["deployment_id"].as_str().expect("an id").to_owned();
    let version = said["version"].as_u64().expect("a version");
    world.note(|ledger| ledger.seen(&id).begun = what);
    (id, version)
}

/// Drains and enables a node, makes and revokes tokens.
async fn keep_house(world: Arc<World>) {
    let labels = json!({ "name": SPARE, "labels": { "spare": "yes" } });
    let joined = world.say(Method::POST, "/v1/agent/join", None, Some(&labels));
    joined.await.is(200);
    for round in 0.. {
        if *world.finishing.borrow() {
            return;
        }
        for (action, verb, body) in [
            ("drain", "drain", json!({})),
            ("enable", "eligibility", json!({ "eligible": true })),
        ] {
            world.ledger().stands.drained = None;
            let (name, path) = (
                format!("house-{round}-{action}"),
                format!("/v1/nodes/{SPARE}/{verb}"),
            );
            world.change(action, &name, &path, &body).await.is(200);
            world.ledger().stands.drained = Some(action == "drain");
            sleep(HOUSEWORK).await;
        }
        // A machine's token leaves the server open for everybody else here.
        let new = json!({ "name": format!("house {round}"), "role": "join" });
        let name = format!("house-{round}-token");
        let made = world
            .change("create token", &name, "/v1/tokens", &new)
            .await;
        let id = match made.status {
            201 => made.body["id"].as_str(),
            // It was made, and the answer with its secret was lost.
            409 => {
                let said = made.body["detail"].as_str();
                said.and_then(|said| said.strip_prefix("token ")?.split(' ').next())
            }
            _ => None,
        };
        let id = id.unwrap_or_else(|| panic!("{:#}", made.body)).to_owned();
        world.ledger().deeds.insert(name, "create token");
        world.ledger().stands.tokens.insert(id.clone(), true);
        sleep(HOUSEWORK).await;
        // Some are kept.
        if round % 3 > 0 {
            world.ledger().stands.tokens.remove(&id);
            let (name, path) = (format!("house-{round}-revoke"), format!("/v1/tokens/{id}"));
            let revoked = world.say(Method::DELETE, &path, Some(&name), None);
            revoked.await.is(204);
            let mut ledger = world.ledger();
            ledger.deeds.insert(name, "revoke token");
            ledger.stands.tokens.insert(id, false);
        }
    }
}

/// Sees a deployment to its end, and what an operator has to do to it done.
async fn follow(world: &World, kind: &Kind, id: &str, number: u64) -> Value {
    let path = format!("/v1/deployments/{id}");
    let command = async |what: &'static str| {
        let (name, path) = (format!("{id}-{what}"), format!("{path}/{what}"));
        world.change(what, &name, &path, &json!({})).await
    };
    let mut revision = 0;
    loop {
        let wait = format!("{path}?revision={revision}&wait=10s");
        let record = world.say(Method::GET, &wait, None, None).await.is(200)["deployment"].take();
        let status = &record["status"];
        revision = status["revision"].as_u64().expect("a revision");
        let state = status["state"].as_str().expect("a state").to_owned();
        world.note(|ledger| see(ledger.seen(id), &record));
        if ["completed", "failed", "canceled"].contains(&state.as_str()) {
            return record;
        }
        if number.is_multiple_of(3) && revision < 4 && number > 0 {
            let paused = command("pause").await;
            if paused.status == 200 {
                world.note(|ledger| ledger.seen(id).paused = true);
                // A server may be killed now, and the next one has to know.
                sleep(PAUSED).await;
                world.note(|ledger| ledger.seen(id).paused = false);
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
            if workload["config"]["silent"] == true {
                continue;
            }
            let observation = match version {
                0 => json!({ "kind": "stopped" }),
                _ => json!({ "kind": "interval", "checks": workload["config"]["bad"] == false }),
            };
            reports.push(json!({
                "job": job, "slot": slot, "generation": generation, "target": target,
                "number": 1, "observation": observation,
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
        news: watch::Sender::default(),
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
    for kind in &KINDS[..3] {
        operators.spawn(operate(world.clone(), kind));
    }
    operators.spawn(meddle(world.clone()));
    operators.spawn(releases::release(world.clone()));
    operators.spawn(keep_house(world.clone()));

    let mut dice = Dice(1);
    let (mut paused, mut timed) = (0, 0);
    for crash in 0..crashes {
        // Each server gets something done. Then one moment is as good as another, but for two that are short.
        let before = world.ledger().answers;
        let is_time = |news: &News| {
            news.answers > before
                && match crash % 4 {
                    1 => news.paused,
                    3 => news.timed,
                    _ => true,
                }
        };
        let mut news = world.news.subscribe();
        tokio::select! {
            answered = news.wait_for(is_time) => drop(answered.expect("answers")),
            Some(broken) = agents.join_next() => broken.expect("an agent goes on for ever"),
            Some(broken) = operators.join_next() => broken.expect("an operator goes on until the end"),
        }
        if crash.is_multiple_of(2) {
            sleep(Duration::from_millis(dice.below(300))).await;
        }
        server.kill();
        // What was sent before its end may be read after it.
        let ledger = world.ledger().clone();
        let open = || {
            ledger
                .deployments
                .values()
                .filter(|seen| seen.over.is_none())
        };
        paused += open().filter(|seen| seen.paused).count();
        timed += open().filter(|seen| seen.timed).count();
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
    assert!(
        crashes < CRASHES || paused.min(timed) > 0,
        "{paused} deployments were paused at a kill, and of {timed} the deadline was near"
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
        deeds,
        groups,
        ..
    } = ledger;
    println!(
        "{crashes} crashes, {paused} of paused deployments, {timed} before a deadline: {answers} answers, {} deeds, \
         {} versions, {} deployments, {} groups, {reports} reports, position {position}",
        deeds.len(),
        versions.len(),
        deployments.len(),
        groups.len(),
    );
    server.stop().await;
}
