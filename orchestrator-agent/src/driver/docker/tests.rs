use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::plan::End;
use crate::settings::Settings;

/// An engine that says what the test wants, to one request on each connection.
struct Fake {
    dir: TempDir,
    _task: JoinSet<()>,
}

impl Fake {
    /// `says` hears the method and the path, and answers with a status and a body.
    fn start(says: impl Fn(&str) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("docker.sock")).unwrap();
        let says = Arc::new(says);
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::answer(stream, says.clone()));
            }
        });
        Self { dir, _task: task }
    }

    async fn answer(mut stream: UnixStream, says: Arc<impl Fn(&str) -> (u16, Value)>) {
        let mut asked = Vec::new();
        while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
            if stream.read_buf(&mut asked).await.unwrap() == 0 {
                return;
            }
        }
        let asked = String::from_utf8(asked).unwrap();
        let (what, _) = asked.split_once(" HTTP/1.1").unwrap();
        let (status, body) = says(what);
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
}

fn no_such_container() -> (u16, Value) {
    (404, json!({ "message": "No such container" }))
}

/// What the engine says of a container.
fn container(status: &str, code: i32) -> (u16, Value) {
    let state = json!({
        "Status": status, "ExitCode": code,
        "StartedAt": "2026-01-01T00:00:00Z", "FinishedAt": "2026-01-01T00:00:03Z",
    });
    (200, json!({ "State": state, "Config": {} }))
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
    let (docker, run) = (fake.docker(), fake.run());
    let full = no_room(&run, ENDED);
    let ended = Look::Ended {
        how: End::Exited(7),
        ran: Duration::from_secs(3),
    };
    for _ in 0..2 {
        assert_eq!(docker.look(&run).await.unwrap(), ended);
        assert!(!run.dir.join(ENDED).exists());
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // There is room again.
    std::fs::remove_dir(full).unwrap();
    assert_eq!(docker.look(&run).await.unwrap(), ended);
    assert_eq!(fake.docker().look(&run).await.unwrap(), ended);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_cannot_start_is_over_though_that_cannot_be_written() {
    let fake = Fake::start(|what| match what {
        "POST /containers/create" => (201, json!({})),
        _ => container("created", 0),
    });
    let (docker, run) = (fake.docker(), fake.run());
    let _full = (no_room(&run, ENDED), no_room(&run, BEGUN));
    let why = docker.start(&run).await.unwrap_err();
    assert!(why.starts_with("the run cannot be written"), "{why}");
    let how = End::CannotStart(why);
    let ran = Duration::ZERO;
    assert_eq!(docker.look(&run).await.unwrap(), Look::Ended { how, ran });
}

#[tokio::test]
async fn an_engine_that_contradicts_itself_is_not_asked_in_haste() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let fake = Fake::start(move |what| {
        count.fetch_add(1, Ordering::Relaxed);
        let (_, path) = what.split_once(' ').unwrap();
        match path {
            path if path.starts_with("/images/") => (200, json!({})),
            path if path.starts_with("/containers/create") => {
                (409, json!({ "message": "The name is in use" }))
            }
            path if path.ends_with("/wait") => (500, json!({ "message": "no" })),
            _ if count.load(Ordering::Relaxed) > 3 => container("running", 0),
            _ => no_such_container(),
        }
    });
    let (docker, run) = (fake.docker(), fake.run());
    // So much goes through before the first pause, and there is none that is so short.
    let soon = Duration::from_millis(200);
    let launched = timeout(soon, docker.launch(&run)).await;
    assert!(launched.is_err());
    assert!(asked.swap(10, Ordering::Relaxed) <= 3);
    let ended = timeout(soon, docker.ended(&run)).await;
    assert!(ended.is_err());
    // One for the output.
    assert!(asked.load(Ordering::Relaxed) <= 10 + 2);
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
            return (200, Value::Null);
        }
        let own = lock(&own).clone();
        let container = |id: &str, agent: Option<&str>, run: &Path| {
            let mut labels = json!({ RUN: run });
            if let Some(agent) = agent {
                labels[AGENT] = json!(agent);
            }
            json!({ "Id": id, "Names": [format!("/{id}")], "Labels": labels })
        };
        let gone = Path::new("/gone/run");
        let nobodys = json!({ "Id": "nobodys", "Names": ["/nobodys"], "Labels": { AGENT: own } });
        let all = [
            container("web-1", Some(&own), gone),
            container("made-meanwhile", Some(&own), &there),
            container("lost", Some(&own), gone),
            container("anothers", Some("other"), gone),
            container("earlier", None, gone),
            nobodys,
        ];
        (200, json!(all))
    });
    let docker = fake.docker();
    lock(&mark).clone_from(docker.agent.as_ref().unwrap());
    docker.sweep(&[Arc::new(fake.run())]).await;
    assert_eq!(
        *lock(&asked),
        [
            "POST /containers/lost/stop",
            "DELETE /containers/lost?v=1&force=1"
        ]
    );
    // It is the same agent the next time.
    assert_eq!(fake.docker().agent, docker.agent);
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
                _ if what.starts_with("POST") => (200, json!({})),
                "GET /images/web/json" if is_here || had("POST /images/create") => (200, json!({})),
                "GET /images/web/json" => (404, json!({ "message": "No such image: web" })),
                _ if had("POST /containers/create") => container("created", 0),
                _ => no_such_container(),
            }
        });
        let (docker, run) = (fake.docker(), fake.run_of(pull));
        let provided = docker.provide(&run.workload).unwrap().await;
        if pull == "never" && !is_here {
            assert_eq!(provided, Err("No such image: web".to_owned()));
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
