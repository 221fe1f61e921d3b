//! What versions bring along, from a server of files that may lie, stall and be gone.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::harness::{Node, Server, eventually, immediate, rolling, service};

/// What is answered at a path.
#[derive(Clone)]
enum Answer {
    File(Vec<u8>),
    Status(u16),
    Elsewhere(String),
    /// Says that it is so long, and sends no more than this.
    Stalls(usize, Vec<u8>),
    /// Says nothing of a length, and closes the connection after this.
    Ends(Vec<u8>),
}

#[derive(Default)]
struct Shelf {
    answers: BTreeMap<String, Vec<Answer>>,
    asked: BTreeMap<String, usize>,
    /// So many wait for bytes that do not come.
    stalled: usize,
}

/// A server of files. It is gone with this.
struct Files {
    address: SocketAddr,
    shelf: Arc<Mutex<Shelf>>,
    task: JoinHandle<()>,
}

impl Drop for Files {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Files {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shelf = Arc::<Mutex<Shelf>>::default();
        let shared = shelf.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let shelf = shared.clone();
                tokio::spawn(async move {
                    // An error means that whoever asked has gone.
                    let _ = answer(stream, &shelf).await;
                });
            }
        });
        Self {
            address,
            shelf,
            task,
        }
    }

    /// One answer after the other, and the last again and again. Answers the address.
    fn put(&self, name: &str, answers: impl Into<Vec<Answer>>) -> String {
        let path = format!("/{name}");
        let url = format!("http://{}{path}", self.address);
        let mut shelf = self.shelf.lock().unwrap();
        shelf.answers.insert(path, answers.into());
        url
    }

    fn asked(&self, name: &str) -> usize {
        let shelf = self.shelf.lock().unwrap();
        shelf.asked.get(&format!("/{name}")).copied().unwrap_or(0)
    }

    fn stalled(&self) -> usize {
        self.shelf.lock().unwrap().stalled
    }
}

async fn answer(stream: TcpStream, shelf: &Mutex<Shelf>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let path = head.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
    let answer = {
        let mut shelf = shelf.lock().unwrap();
        *shelf.asked.entry(path.clone()).or_default() += 1;
        match shelf.answers.get_mut(&path) {
            Some(answers) if answers.len() > 1 => answers.remove(0),
            Some(answers) => answers[0].clone(),
            None => Answer::Status(404),
        }
    };
    let said = |length: usize| format!("content-length: {length}\r\n");
    let (status, more, length, bytes) = match answer {
        Answer::File(bytes) => (200, said(bytes.len()), bytes.len(), bytes),
        Answer::Status(status) => (status, said(0), 0, Vec::new()),
        Answer::Elsewhere(to) => (302, format!("location: {to}\r\n{}", said(0)), 0, Vec::new()),
        Answer::Stalls(length, bytes) => (200, said(length), length, bytes),
        Answer::Ends(bytes) => (200, String::new(), bytes.len(), bytes),
    };
    let head = format!("HTTP/1.1 {status} Said\r\n{more}\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    if bytes.len() < length {
        shelf.lock().unwrap().stalled += 1;
        // Ready when the other side is gone.
        let _ = stream.read_line(&mut String::new()).await;
        shelf.lock().unwrap().stalled -= 1;
    }
    stream.shutdown().await
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// What the tar on this machine makes of it.
pub(crate) fn packed(args: &[&str], dir: &Path) -> Vec<u8> {
    let tar = Command::new("tar")
        .args(["--create", "--gzip"])
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        tar.status.success(),
        "{}",
        String::from_utf8_lossy(&tar.stderr)
    );
    tar.stdout
}

/// The service, packed with a word that makes each another artifact.
fn release(word: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bin")).unwrap();
    std::fs::copy(
        env!("CARGO_BIN_EXE_service"),
        dir.path().join("bin/service"),
    )
    .unwrap();
    std::fs::write(dir.path().join("word"), word).unwrap();
    packed(&["."], dir.path())
}

/// The service out of an artifact.
fn brought(url: &str, sha256: &str, command: &str, more: Value) -> Value {
    let mut job = service(&[], more);
    job["config"] = json!({ "command": command });
    job["artifact"] = json!({ "source": url, "sha256": sha256 });
    job
}

fn here(node: &Node) -> Vec<String> {
    let found = std::fs::read_dir(node.path("artifacts"))
        .into_iter()
        .flatten();
    found
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test]
async fn the_way_back_needs_no_network() {
    let server = Server::start().await;
    let nodes = [Node::here(&server, "n1"), Node::here(&server, "n2")];
    server.api.nodes(2).await;
    let files = Files::start().await;
    for word in ["one", "two"] {
        let bytes = release(word);
        let hash = sha256(&bytes);
        let url = files.put(&format!("{word}.tar.gz"), [Answer::File(bytes)]);
        let moved = files.put(&format!("latest-{word}.tar.gz"), [Answer::Elsewhere(url)]);
        let job = brought(&moved, &hash, "{ARTIFACT}/bin/service", rolling());
        let id = server.api.register(job).await;
        server.api.until_state(&id, "completed").await;
    }
    for node in &nodes {
        let pid = node.answers(2).await;
        let env = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        let env = String::from_utf8(env).unwrap();
        let told = env
            .split('\0')
            .find_map(|line| line.strip_prefix("ORCHESTRATOR_ARTIFACT="));
        let word = std::fs::read_to_string(Path::new(told.unwrap()).join("word"));
        assert_eq!(word.unwrap(), "two");
    }
    assert_eq!(
        (files.asked("one.tar.gz"), files.asked("two.tar.gz")),
        (2, 2)
    );

    drop(files);
    server.api.taken_back("web").await;
    for node in &nodes {
        node.answers(1).await;
    }
}

#[tokio::test]
async fn what_is_not_what_it_says_is_taken_back_and_what_ran_goes_on() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let files = Files::start().await;
    let program = std::fs::read(env!("CARGO_BIN_EXE_service")).unwrap();
    let url = files.put("service", [Answer::File(program.clone())]);
    let job = brought(&url, &sha256(&program), "{ARTIFACT}", rolling());
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
    let pid = node.answers(1).await;

    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("inside")).unwrap();
    std::fs::write(dir.path().join("outside"), "I am out").unwrap();
    let inside = dir.path().join("inside");
    let climbs = packed(&["--absolute-names", "../outside"], &inside);
    std::os::unix::fs::symlink("/etc", inside.join("etc")).unwrap();
    let leads = packed(&["etc"], &inside);
    let other = release("other");
    let wrong = sha256(b"what was promised");
    let cases = [
        (climbs, None, "\"../outside\": it climbs out"),
        (leads, None, "a link to \"/etc\": it leads out"),
        (other.clone(), Some(&wrong), &sha256(&other)[..]),
        (b"no archive".to_vec(), None, "invalid gzip header"),
    ];
    let last = cases.len() - 1;
    for (number, (bytes, hash, sentence)) in cases.into_iter().enumerate() {
        let hash = hash.cloned().unwrap_or_else(|| sha256(&bytes));
        let url = files.put(
            &format!("{number}.tgz?key=secret"),
            [Answer::File(bytes.clone())],
        );
        files.put(&format!("{number}.tgz"), [Answer::File(bytes)]);
        let job = brought(&url, &hash, "{ARTIFACT}/bin/service", rolling());
        let is_last = number == last;
        let mut job = job;
        job["rollout"]["no_auto_rollback"] = json!(!is_last);
        let id = server.api.register(job).await;
        let failed = server.api.until_state(&id, "failed").await;
        if is_last {
            let rollback = failed["rolled_back_by"].as_str().unwrap();
            server.api.until_state(rollback, "completed").await;
            node.answers(1).await;
        } else {
            assert_eq!(node.answer().await, Some((1, pid)), "it was stopped");
        }
        for path in ["targets", "explain"] {
            let said = server
                .api
                .get(&format!("/v1/deployments/{id}/{path}"))
                .await;
            let said = said.to_string().replace('\\', "");
            assert!(said.contains(sentence), "{path}: {said}");
            assert!(said.contains(&format!("{number}.tgz")), "{path}: {said}");
        }
        let said = server.api.targets(&id).await;
        assert!(!said.contains("secret"), "{said}");
    }
    assert_eq!(here(&node).len(), 1, "{:?}", here(&node));
    assert!(!node.path("outside").exists() && !node.path("artifacts/outside").exists());
}

#[tokio::test]
async fn a_source_that_is_away_is_tried_again() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let files = Files::start().await;
    let program = std::fs::read(env!("CARGO_BIN_EXE_service")).unwrap();
    let hash = sha256(&program);
    // A short outage is worth no failed deployment.
    let good = Answer::File(program.clone());
    let broken = Answer::Status(503);
    let url = files.put("service", [broken.clone(), broken, good]);
    let id = server
        .api
        .register(brought(&url, &hash, "{ARTIFACT}", rolling()))
        .await;
    server.api.until_state(&id, "completed").await;
    assert_eq!(files.asked("service"), 3);
    node.answers(1).await;

    // Nor is an answer that was cut where nobody can tell.
    let cut = Answer::Ends(program[..program.len() / 2].to_vec());
    let whole = [&program[..], b"whole"].concat();
    let url = files.put("cut", [cut.clone(), cut, Answer::Ends(whole.clone())]);
    let id = server
        .api
        .register(brought(&url, &sha256(&whole), "{ARTIFACT}", rolling()))
        .await;
    server.api.until_state(&id, "completed").await;
    assert_eq!(files.asked("cut"), 3);
    node.answers(2).await;

    // What is wanted no more is not asked for again.
    let none = format!("http://{}/none", files.address);
    let other = sha256(b"other");
    let id = server
        .api
        .register(brought(&none, &other, "{ARTIFACT}", rolling()))
        .await;
    let failed = server.api.until_state(&id, "failed").await;
    let said = server.api.targets(&id).await;
    assert!(said.contains("the answer is 404"), "{said}");
    let rollback = failed["rolled_back_by"].as_str().unwrap();
    server.api.until_state(rollback, "completed").await;
    let asked = files.asked("none");
    assert!(asked >= 3, "{asked}");
    node.answers(2).await;

    // A file of the node that comes late.
    let path = node.path("late");
    let source = path.to_str().unwrap();
    let late = [&program[..], b"late"].concat();
    let mut job = brought(source, &sha256(&late), "{ARTIFACT}", immediate());
    job["rollout"]["on_failure"] = json!("fail");
    let id = server.api.register(job).await;
    server.api.until_state(&id, "failed").await;
    let said = server.api.targets(&id).await;
    assert!(said.contains("No such file"), "{said}");
    std::fs::write(&path, late).unwrap();
    node.answers(4).await;
    assert_eq!(files.asked("none"), asked);
}

#[tokio::test]
async fn what_stalls_holds_nobody_up_and_is_abandoned() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    node.start_apart(&[]);
    server.api.nodes(1).await;
    let files = Files::start().await;
    let bytes = release("whole");
    let hash = sha256(&bytes);
    let half = Answer::Stalls(bytes.len(), bytes[..bytes.len() / 2].to_vec());
    let url = files.put("app.tgz", [half.clone(), half, Answer::File(bytes)]);
    let mut job = brought(&url, &hash, "{ARTIFACT}/bin/service", immediate());
    job["replicas"] = json!(2);
    server.api.register(job.clone()).await;
    eventually("it stalls", async || (files.stalled() == 1).then_some(())).await;
    assert_eq!(here(&node).len(), 1, "both wait for the same");

    // Others do not wait for it.
    let mut other = service(&[], immediate());
    other["job_id"] = json!("other");
    let id = server.api.register(other).await;
    server.api.until_state(&id, "completed").await;

    // What a killed agent has left of it is nothing.
    node.kill().await;
    node.start_apart(&[]);
    eventually("it stalls again", async || {
        let again = files.asked("app.tgz") == 2 && files.stalled() == 1;
        again.then_some(())
    })
    .await;
    assert_eq!(here(&node).len(), 1, "{:?}", here(&node));
    node.until("it is shown", |status| {
        let executions = status["executions"].as_array().unwrap();
        let fetching = executions
            .iter()
            .filter(|one| one["standing"] == "fetching");
        fetching.count() == 2
    })
    .await;

    // It is not wanted any more.
    server.api.stopped("web").await;
    eventually("nothing is left", async || {
        (files.stalled() == 0 && here(&node).is_empty()).then_some(())
    })
    .await;

    let mut again = job;
    again["env"] = json!({ "COLOR": "green" });
    let id = server.api.register(again).await;
    server.api.until_state(&id, "completed").await;
    assert_eq!(files.asked("app.tgz"), 3, "once for both");
    assert_eq!(here(&node), [format!("{hash}-tar.gz")]);
}

#[tokio::test]
async fn what_has_no_end_is_not_followed_to_it() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    node.start_apart(&["--artifact-mib", "1"]);
    server.api.nodes(1).await;
    let files = Files::start().await;
    let around = files.put("around", []);
    files.put("around", [Answer::Elsewhere(around)]);
    files.put("long", [Answer::Stalls(2 << 20, Vec::new())]);
    let dir = tempfile::tempdir().unwrap();
    let zeros = dir.path().join("zeros");
    std::fs::File::create(&zeros)
        .unwrap()
        .set_len(5 << 20)
        .unwrap();
    let bomb = packed(&["zeros"], dir.path());
    let hash = sha256(&bomb);
    files.put("bomb.tgz", [Answer::File(bomb)]);
    for (name, sentence) in [
        ("around", "more than 5 redirects"),
        ("long", "more than the 1048576 bytes"),
        ("bomb.tgz", "larger than is allowed"),
    ] {
        let url = format!("http://{}/{name}", files.address);
        let job = brought(&url, &hash, "{ARTIFACT}", immediate());
        let id = server.api.register(job).await;
        server.api.until_state(&id, "failed").await;
        let said = server.api.targets(&id).await;
        assert!(said.contains(sentence), "{said}");
    }
    assert_eq!(files.asked("around"), 6);
    eventually("nothing is left", async || {
        here(&node).is_empty().then_some(())
    })
    .await;
}
