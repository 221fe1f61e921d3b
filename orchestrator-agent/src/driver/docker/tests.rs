use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::RwLock;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::plan::End;
use crate::settings::Settings;

/// What it was asked to stop.
#[derive(Default)]
struct Stops {
    count: AtomicUsize,
    /// While a test has it for itself, none of that stops.
    held: RwLock<()>,
}

/// An engine that says what the test wants, to one request on each connection.
struct Fake {
    dir: TempDir,
    stops: Arc<Stops>,
    _task: JoinSet<()>,
}

impl Fake {
    /// `says` hears the method and the path, and answers with a status and a body.
    fn start(says: impl Fn(&str) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("docker.sock")).unwrap();
        let says = Arc::new(says);
        let stops = Arc::<Stops>::default();
        let mut task = JoinSet::new();
        let stop = stops.clone();
        task.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::answer(stream, stop.clone(), says.clone()));
            }
        });
        Self {
            dir,
            stops,
            _task: task,
        }
    }

    async fn answer(
        mut stream: UnixStream,
        stops: Arc<Stops>,
        says: Arc<impl Fn(&str) -> (u16, Value)>,
    ) {
        let mut asked = Vec::new();
        while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
            if stream.read_buf(&mut asked).await.unwrap() == 0 {
                return;
            }
        }
        let asked = String::from_utf8(asked).unwrap();
        let (what, _) = asked.split_once(" HTTP/1.1").unwrap();
        if what.ends_with("/stop") {
            stops.count.fetch_add(1, Ordering::Relaxed);
            let _ = stops.held.read().await;
        }
        let (status, body) = says(what);
        if status == NO_ANSWER {
            return std::future::pending().await;
        }
        let body = body.to_string();
        let len = body.len();
        let answer = format!("HTTP/1.1 {status} so\r\ncontent-length: {len}\r\n\r\n{body}");
        let _ = stream.write_all(answer.as_bytes()).await;
    }

    fn docker(&self) -> Docker {
        let settings = Settings {
            docker: self.dir.path().join("docker.sock"),
            ..Settings::new("", "n1", "")
        };
        Docker::new(&settings, self.dir.path())
    }

    /// A run that is kept.
    fn run(&self) -> Run {
        self.run_of("missing")
    }

    fn run_of(&self, pull: &str) -> Run {
        let config = json!({ "image": "web", "pull": pull });
        let document = json!({ "driver": "docker", "config": config });
        Run::kept(self.dir.path().join("web-1"), 1, document)
    }

    /// One that was begun.
    fn begun(&self) -> Run {
        let run = self.run();
        disk::note(&run.dir.join(BEGUN), b"").unwrap();
        run
    }
}

const NO_ANSWER: u16 = 0;

fn no_such_container() -> (u16, Value) {
    (404, json!({ "message": "No such container" }))
}

/// What the engine says of a container.
fn container(status: &str, code: i32) -> (u16, Value) {
    let state = json!({
        "Status": status, "ExitCode": code,
        "StartedAt": "2026-01-01T00:00:00Z", "FinishedAt": "2026-01-01T00:00:03Z",
    });
    (200, json!({ "Id": "1", "State": state, "Config": {} }))
}

/// Nothing can be written in place of a directory.
fn no_room(run: &Run, name: &str) -> PathBuf {
    let path = run.dir.join(name).with_extension("new");
    std::fs::create_dir(&path).unwrap();
    path
}

#[tokio::test]
async fn an_end_that_cannot_be_written_is_an_end() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let fake = Fake::start(move |what| match what.contains("/logs") {
        true => (500, json!({ "message": "no logs" })),
        false => {
            count.fetch_add(1, Ordering::Relaxed);
            container("exited", 7)
        }
    });
    let (docker, run) = (fake.docker(), fake.begun());
    let full = no_room(&run, ENDED);
    let ended = Look::Ended {
        how: End::Exited(7),
        ran: Duration::from_secs(3),
    };
    for _ in 0..2 {
        assert_eq!(docker.look(&run).await.unwrap(), ended);
        assert!(!run.dir.join(ENDED).exists());
    }
    // There is room again.
    std::fs::remove_dir(full).unwrap();
    assert_eq!(docker.look(&run).await.unwrap(), ended);
    assert_eq!(asked.swap(0, Ordering::Relaxed), 3);
    assert_eq!(fake.docker().look(&run).await.unwrap(), ended);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_cannot_start_says_why_though_that_cannot_be_written() {
    let (fake, ..) = engine();
    let (docker, run) = (fake.docker(), fake.run());
    let _full = (no_room(&run, ENDED), no_room(&run, BEGUN));
    let why = docker.start(&run).await.unwrap_err();
    assert!(why.starts_with("the run cannot be written"), "{why}");
    assert_eq!(docker.look(&run).await.unwrap(), Look::Absent);
}

#[tokio::test]
async fn an_engine_that_contradicts_itself_is_not_asked_in_haste() {
    for waited in [500, 200] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let fake = Fake::start(move |what| {
            count.fetch_add(1, Ordering::Relaxed);
            let (_, path) = what.split_once(' ').unwrap();
            match path {
                path if path.starts_with("/images/") => (200, json!({})),
                path if path.starts_with("/containers/json?") => (200, json!([])),
                path if path.starts_with("/containers/create") => {
                    (409, json!({ "message": "The name is in use" }))
                }
                path if path.ends_with("/wait") => (waited, json!({ "message": "no" })),
                _ if count.load(Ordering::Relaxed) > 4 => container("running", 0),
                _ => no_such_container(),
            }
        });
        let (docker, run) = (fake.docker(), fake.run());
        // So much goes through before the first pause, and there is none that is so short.
        let soon = Duration::from_millis(200);
        let launched = timeout(soon, docker.launch(&run)).await;
        assert!(launched.is_err());
        assert!(asked.swap(10, Ordering::Relaxed) <= 4);
        let ended = timeout(soon, docker.ended(&run)).await;
        assert!(ended.is_err());
        // One for the output.
        assert!(asked.load(Ordering::Relaxed) <= 10 + 3);
    }
}

#[tokio::test]
async fn a_check_that_was_left_alone_is_begun_again_once_it_is_over() {
    // What the engine says of the one that was left, and what it does with the next.
    let made = json!({ "Running": false, "ExitCode": null });
    let runs = json!({ "Running": true, "ExitCode": null });
    let ended = json!({ "Running": false, "ExitCode": 3 });
    for (said, next) in [
        ((200, made), Some("1")),
        ((200, ended), Some("2")),
        (
            (404, json!({ "message": "No such exec instance" })),
            Some("2"),
        ),
        ((200, runs), None),
    ] {
        let asked = Arc::new(Mutex::new(Vec::<String>::new()));
        let heard = asked.clone();
        let fake = Fake::start(move |what| {
            let mut asked = lock(&heard);
            asked.push(what.to_owned());
            let count = |end: &str| asked.iter().filter(|what| what.ends_with(end)).count();
            match count("/start") {
                _ if what.ends_with("/exec") => (201, json!({ "Id": count("/exec").to_string() })),
                1 if what.ends_with("/start") => (NO_ANSWER, Value::Null),
                1 => said.clone(),
                _ => (200, json!({ "Running": false, "ExitCode": 0 })),
            }
        });
        let (docker, run) = (fake.docker(), fake.begun());
        let command = ["true".to_owned()];
        let is_begun = || lock(&asked).iter().any(|what| what.ends_with("/start"));
        tokio::select! {
            ran = docker.run(&run, &command) => panic!("{ran:?}"),
            () = eventually(is_begun) => {}
        }
        let ran = docker.run(&run, &command).await;
        let begun = lock(&asked);
        let begun = begun.iter().filter_map(|what| {
            let id = what.strip_prefix("POST /exec/")?;
            id.strip_suffix("/start")
        });
        let begun: Vec<&str> = begun.skip(1).collect();
        match next {
            Some(next) => {
                assert_eq!(ran.unwrap(), 0);
                assert_eq!(begun, [next]);
            }
            None => {
                let why = ran.unwrap_err().to_string();
                assert_eq!(why, "the last one has not ended");
                assert!(begun.is_empty());
            }
        }
    }
}

#[tokio::test]
async fn two_checks_that_run_the_same_are_two() {
    let (first, mut began) = tokio::sync::watch::channel(0);
    let fake = Fake::start(move |what| match what {
        what if what.ends_with("/exec") => (201, json!({ "Id": "1" })),
        what if what.ends_with("/start") => {
            first.send_modify(|begun| *begun += 1);
            match *first.borrow() {
                1 => (NO_ANSWER, Value::Null),
                _ => (200, Value::Null),
            }
        }
        _ => (200, json!({ "Running": false, "ExitCode": 0 })),
    });
    let (docker, run) = (fake.docker(), fake.begun());
    let command = ["true".to_owned()];
    let second = async {
        began.wait_for(|begun| *begun == 1).await.unwrap();
        docker.run(&run, &command).await
    };
    tokio::select! {
        ran = docker.run(&run, &command) => panic!("{ran:?}"),
        ran = second => assert_eq!(ran.unwrap(), 0),
    }
}

#[tokio::test]
async fn a_name_that_stays_in_use_is_why_it_cannot_start() {
    let (fake, containers, _) = engine();
    let name = fake.run().name;
    // It can be seen by nobody.
    lock(&containers).push(("old".to_owned(), name, "hidden", json!({})));
    let why = fake.docker().start(&fake.run()).await.unwrap_err();
    assert!(why.contains("The name is in use"), "{why}");
}

#[tokio::test]
async fn only_what_is_surely_its_own_and_lost_is_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let there = dir.path().to_owned();
    let mark = Arc::new(Mutex::new(String::new()));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (own, heard) = (mark.clone(), asked.clone());
    let fake = Fake::start(move |what| {
        if !what.starts_with("GET /containers/json?") {
            lock(&heard).push(what.to_owned());
            return match what.contains("/stuck/") {
                true => (500, json!({ "message": "it does not end" })),
                false => (200, Value::Null),
            };
        }
        let own = lock(&own).clone();
        let container = |id: &str, agent: Option<&str>, run: &Path| {
            let mut labels = json!({ RUN: run });
            if let Some(agent) = agent {
                labels[AGENT] = json!(agent);
            }
            json!({ "Id": id, "Names": [format!("/{id}")], "Labels": labels, "State": "running" })
        };
        let gone = Path::new("/gone/run");
        let nobodys = json!({
            "Id": "nobodys", "Names": ["/nobodys"], "Labels": { AGENT: own }, "State": "running",
        });
        let all = [
            container("web-1", Some(&own), gone),
            container("made-meanwhile", Some(&own), &there),
            container("stuck", Some(&own), gone),
            container("lost", Some(&own), gone),
            container("anothers", Some("other"), gone),
            container("earlier", None, gone),
            nobodys,
        ];
        (200, json!(all))
    });
    let docker = fake.docker();
    lock(&mark).clone_from(docker.agent.get().unwrap());
    docker.sweep(&[Arc::new(fake.run())]).await.unwrap_err();
    // One that does not go keeps no other from that.
    assert_eq!(
        *lock(&asked),
        [
            "POST /containers/stuck/stop",
            "POST /containers/lost/stop",
            "DELETE /containers/lost?v=1&force=1"
        ]
    );
    // It is the same agent the next time.
    assert_eq!(fake.docker().agent(), docker.agent());
}

#[tokio::test]
async fn what_somebody_has_begun_again_after_its_end_is_taken_away() {
    for sweeps in [true, false] {
        let (fake, containers, _) = engine();
        let (docker, run) = (fake.docker(), fake.begun());
        fake.lose(&containers, fake.labels());
        let runs = [Arc::new(run.clone())];
        docker.sweep(&runs).await.unwrap();
        assert_eq!(running(&containers), ["old"], "it has not ended");
        assert_eq!(docker.look(&run).await.unwrap(), Look::Running);
        super::super::note_end(&run.dir, Ended::with(0, Duration::ZERO));
        match sweeps {
            true => docker.sweep(&runs).await.unwrap(),
            false => docker.forget(&run).await.unwrap(),
        }
        assert!(lock(&containers).is_empty());
    }
}

#[tokio::test]
async fn passwords_that_cannot_be_read_for_a_moment_are_read_again() {
    let fake = Fake::start(|what| match what.starts_with("GET /images/") {
        true => (404, json!({ "message": "No such image: web" })),
        false => (200, Value::Null),
    });
    let logins = fake.dir.path().join("config.json");
    std::fs::write(&logins, r#"{ "auths": {"#).unwrap();
    let settings = Settings {
        docker: fake.dir.path().join("docker.sock"),
        docker_config: Some(logins.clone()),
        ..Settings::new("", "n1", "")
    };
    let docker = Docker::new(&settings, fake.dir.path());
    let run = fake.run();
    let mut provided = docker.provide(&run.workload).unwrap();
    // It has been read when this is not over at once.
    let soon = timeout(Duration::from_millis(100), &mut provided).await;
    assert!(soon.is_err(), "{soon:?}");
    std::fs::write(&logins, "{}").unwrap();
    assert_eq!(provided.await, Ok(()));
}

#[tokio::test]
async fn an_image_is_brought_once_for_each_assignment() {
    for (pull, is_here, pulls) in [
        ("always", true, 1),
        ("always", false, 1),
        ("missing", true, 0),
        ("missing", false, 1),
        ("never", true, 0),
        ("never", false, 0),
    ] {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        let fake = Fake::start(move |what| {
            let mut asked = lock(&heard);
            asked.push(what.to_owned());
            let had = |start: &str| asked.iter().any(|what| what.starts_with(start));
            match what {
                _ if what.starts_with("POST") => (200, json!({ "Id": "1" })),
                "GET /images/web/json" if is_here || had("POST /images/create") => (200, json!({})),
                "GET /images/web/json" => (404, json!({ "message": "No such image: web" })),
                _ if what.starts_with("GET /containers/json?") => (200, json!([])),
                _ if had("POST /containers/create") => container("created", 0),
                _ => no_such_container(),
            }
        });
        let (docker, run) = (fake.docker(), fake.run_of(pull));
        let provided = docker.provide(&run.workload).unwrap().await;
        if pull == "never" && !is_here {
            assert_eq!(
                provided,
                Err(Lack::Missing("No such image: web".to_owned()))
            );
            continue;
        }
        assert_eq!(provided, Ok(()));
        assert_eq!(docker.start(&run).await, Ok(()));
        let asked = lock(&asked);
        let pulled = asked
            .iter()
            .filter(|what| what.starts_with("POST /images/create"));
        assert_eq!(pulled.count(), pulls, "{pull}: {asked:?}");
    }
}

#[tokio::test]
async fn an_image_that_is_here_waits_for_none_that_is_far_away() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let fake = Fake::start(move |what| {
        if what.starts_with("POST /images/create") {
            count.fetch_add(1, Ordering::Relaxed);
            return (NO_ANSWER, Value::Null);
        }
        (200, json!({}))
    });
    let (docker, here) = (Arc::new(fake.docker()), fake.run());
    let mut pulls = JoinSet::new();
    for _ in 0..PULLS_MAX * 2 {
        let (docker, far) = (docker.clone(), fake.run_of("always"));
        pulls.spawn(async move { docker.provide(&far.workload).unwrap().await });
    }
    eventually(|| asked.load(Ordering::Relaxed) == PULLS_MAX).await;
    let provided = docker.provide(&here.workload).unwrap().await;
    assert_eq!(provided, Ok(()));
    // The others wait for their turn.
    assert_eq!(asked.load(Ordering::Relaxed), PULLS_MAX);
}

/// The containers of an engine: the id, the name, the state and the labels of each.
type Containers = Arc<Mutex<Vec<(String, String, &'static str, Value)>>>;

/// An engine that has containers, and what it was asked to do.
fn engine() -> (Fake, Containers, Arc<Mutex<Vec<String>>>) {
    let (all, asked) = (Containers::default(), Arc::<Mutex<Vec<String>>>::default());
    let (has, heard) = (all.clone(), asked.clone());
    let mark = Arc::new(Mutex::new(Value::Null));
    let own = mark.clone();
    let fake = Fake::start(move |what| {
        let (method, path) = what.split_once(' ').unwrap();
        let mut all = lock(&has);
        if path.starts_with("/images/") {
            return (200, json!({}));
        }
        if path.starts_with("/containers/json?") {
            let listed = all.iter().map(|(id, name, state, labels)| {
                json!({ "Id": id, "Names": [format!("/{name}")], "Labels": labels, "State": state })
            });
            return (200, listed.collect());
        }
        if method != "GET" {
            lock(&heard).push(what.to_owned());
        }
        if let Some(name) = path.strip_prefix("/containers/create?name=") {
            if all.iter().any(|other| other.1 == name) {
                return (409, json!({ "message": "The name is in use" }));
            }
            let labels = json!({ AGENT: *lock(&own) });
            all.push(("new".to_owned(), name.to_owned(), "created", labels));
            return (201, json!({ "Id": "new" }));
        }
        let path = path.strip_prefix("/containers/").unwrap();
        let (which, verb) = path.split_once(['/', '?']).unwrap();
        let mut seen = all.iter();
        let at = seen.position(|one| one.2 != "hidden" && (one.0 == which || one.1 == which));
        let Some(at) = at else {
            return no_such_container();
        };
        match (method, verb) {
            ("DELETE", _) => drop(all.remove(at)),
            (_, "stop") => all[at].2 = "exited",
            (_, "start") => all[at].2 = "running",
            _ => {
                let (id, _, state, labels) = &all[at];
                let (_, mut told) = container(state, 143);
                told["Id"] = json!(id);
                told["Config"]["Labels"] = labels.clone();
                return (200, told);
            }
        }
        (204, Value::Null)
    });
    *lock(&mark) = json!(fake.docker().agent());
    (fake, all, asked)
}

impl Fake {
    /// Has a container of this agent, of a run of this name that was lost.
    fn lose(&self, containers: &Containers, mut labels: Value) {
        labels[RUN] = json!(self.dir.path().join("web-1"));
        lock(containers).push(("old".to_owned(), "web-1".to_owned(), "running", labels));
    }

    /// And one that was only made.
    fn lose_new(&self, containers: &Containers) {
        self.lose(containers, self.labels());
        lock(containers)[0].2 = "created";
    }

    fn labels(&self) -> Value {
        json!({ AGENT: self.docker().agent() })
    }
}

fn running(containers: &Containers) -> Vec<String> {
    let all = lock(containers);
    let running = all.iter().filter(|(_, _, state, _)| *state == "running");
    running.map(|(id, ..)| id.clone()).collect()
}

async fn eventually(is: impl Fn() -> bool) {
    let looks = async {
        while !is() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(60), looks).await.unwrap();
}

#[tokio::test]
async fn what_is_swept_is_not_taken_for_a_new_run_of_its_name() {
    let (fake, containers, asked) = engine();
    fake.lose(&containers, fake.labels());
    let docker = Arc::new(fake.docker());
    let held = fake.stops.held.write().await;
    let sweep = {
        let docker = docker.clone();
        tokio::spawn(async move { docker.sweep(&[]).await })
    };
    // It has seen that the directory is gone; now the run is made anew, in the same one.
    eventually(|| fake.stops.count.load(Ordering::Relaxed) == 1).await;
    let run = fake.run();
    let start = {
        let (docker, run) = (docker.clone(), run.clone());
        tokio::spawn(async move { docker.start(&run).await })
    };
    eventually(|| fake.stops.count.load(Ordering::Relaxed) == 2).await;
    assert_eq!(docker.look(&run).await.unwrap(), Look::Absent);
    drop(held);
    sweep.await.unwrap().unwrap();
    start.await.unwrap().unwrap();
    assert_eq!(running(&containers), ["new"]);
    assert_eq!(docker.look(&run).await.unwrap(), Look::Running);
    let asked = lock(&asked);
    let last = asked.last().unwrap();
    assert_eq!(last, "POST /containers/web-1/start", "{asked:?}");
}

#[tokio::test]
async fn what_a_lost_run_has_left_makes_way_for_the_next_of_its_name() {
    let (fake, containers, _) = engine();
    fake.lose(&containers, fake.labels());
    let (docker, run) = (fake.docker(), fake.run());
    // The sweep comes too late for this one, and leaves it to the run.
    docker.sweep(&[]).await.unwrap();
    assert_eq!(running(&containers), ["old"]);
    docker.start(&run).await.unwrap();
    assert_eq!(running(&containers), ["new"]);
    docker.sweep(&[]).await.unwrap();
    assert_eq!(docker.look(&run).await.unwrap(), Look::Running);

    // So does one that was only made: it may be made of something else.
    let (fake, containers, _) = engine();
    fake.lose_new(&containers);
    fake.docker().start(&fake.run()).await.unwrap();
    assert_eq!(running(&containers), ["new"]);
    assert_eq!(lock(&containers).len(), 1);

    // But not that of a run that was known to begin when its agent was killed.
    let (fake, containers, _) = engine();
    fake.lose_new(&containers);
    fake.docker().start(&fake.begun()).await.unwrap();
    assert_eq!(running(&containers), ["old"]);

    // One that never began takes it away, too.
    let (fake, containers, _) = engine();
    fake.lose(&containers, fake.labels());
    let (docker, run) = (fake.docker(), fake.run());
    docker.forget(&run).await.unwrap();
    assert!(lock(&containers).is_empty());

    // One that was made here, of which nothing is known any more, is not to run beside the next, whatever it is called.
    let (fake, containers, _) = engine();
    let labels = json!({ AGENT: "former", RUN: fake.dir.path().join("0.1.1") });
    let former = ("old".to_owned(), "former-1".to_owned(), "running", labels);
    lock(&containers).push(former);
    let (docker, run) = (
        fake.docker(),
        Run {
            dir: fake.dir.path().join("0.1.2"),
            ..fake.run()
        },
    );
    disk::directory(&run.dir).unwrap();
    let why = docker.start(&run).await.unwrap_err();
    assert!(
        why.contains("`docker rm --force former-1` ends it"),
        "{why}"
    );
    assert_eq!(running(&containers), ["old"]);
    lock(&containers)[0].2 = "exited";
    let next = Run {
        dir: fake.dir.path().join("0.1.3"),
        ..fake.run()
    };
    disk::directory(&next.dir).unwrap();
    docker.start(&next).await.unwrap();
    assert_eq!(running(&containers), ["new"]);

    // Another agent's stays as it is.
    let (fake, containers, _) = engine();
    fake.lose(&containers, json!({ AGENT: "other" }));
    let (docker, run) = (fake.docker(), fake.run());
    let why = docker.start(&run).await.unwrap_err();
    assert!(why.contains("that is not this agent's"), "{why}");
    assert_eq!(running(&containers), ["old"]);
}
