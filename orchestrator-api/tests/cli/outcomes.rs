//! How a deployment ends, as a script sees it.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::harness::{Server, as_told};
use crate::run::{Person, Session};
use crate::stories::{WEB, canary, person};

pub(crate) fn with_fate(fate: &str) -> String {
    fated(WEB, fate)
}

/// The same file, and what the nodes are to make of it.
fn fated(file: &str, fate: &str) -> String {
    file.replace(
        "[config]\n",
        &format!("[env]\nFATE = \"{fate}\"\n\n[config]\n"),
    )
}

/// Starts a command and waits until it has said its first line; its output goes on to be read.
pub(crate) async fn first_line(person: &Person, line: &str) -> (Child, BufReader<ChildStdout>) {
    let mut command = person.command(line);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        assert!(out.read_line(&mut line).unwrap() > 0, "it said nothing");
        (child, out)
    });
    started.await.unwrap()
}

pub(crate) async fn code(mut child: Child) -> Option<i32> {
    let ended = tokio::task::spawn_blocking(move || child.wait());
    ended.await.unwrap().unwrap().code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_code_says_how_it_ended() {
    let mut server = Server::start().await;
    server.nodes(3, as_told).await;
    let person = person(&server);
    let mut session = Session::of(&person, "The five ends of a deployment.");
    let ran = session.watches("job run web.toml").await;
    assert_eq!(ran.code, 0);
    // Of two in a wave either would be the first to fail.
    let bad = with_fate("bad").replace("max_parallel = 2", "max_parallel = 1");
    person.writes("web.toml", &bad);
    let ran = session.watches("job run web.toml").await;
    assert_eq!(ran.code, 3);
    session.types("job run web.toml").await;
    let alone = bad.replace("\"web\"", "\"alone\"");
    person.writes("alone.toml", &alone);
    let ran = session.watches("job run alone.toml").await;
    assert_eq!(ran.code, 2);
    session.types("deployment explain alone").await;
    // There is no version 0.
    let ran = session.watches("job stop alone").await;
    assert_eq!(ran.code, 0);
    session.types("job stop alone --detach").await;
    session.types("job list").await;
    session.types("deployment list --job alone").await;
    session.types("deployment status alone").await;
    let silent = with_fate("silent").replace("\"web\"", "\"silent\"");
    person.writes("silent.toml", &silent);
    let ran = person.types("job run silent.toml --timeout 100ms").await;
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.stderr.starts_with("It is still under way."), "{ran:?}");

    let (watching, _out) = first_line(&person, "deployment watch silent").await;
    session.types("deployment cancel silent").await;
    assert_eq!(code(watching).await, Some(4));
    session.types("deployment watch silent").await;
    session.is("outcomes");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_waits_for_its_turn_to_promote() {
    let mut server = Server::start().await;
    server.nodes(3, as_told).await;
    let person = person(&server);
    person.writes("web.toml", &canary());
    person.types("job run web.toml --detach").await;
    let waits = "deployment watch web --until promotion";
    let ran = person.types(waits).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let said = ran.stdout.lines().last().unwrap_or_default();
    assert!(said.ends_with("waiting for promotion"), "{ran:?}");
    // Who watches on is told what to type, once.
    let (watching, out) = first_line(&person, "deployment watch web").await;
    let told = tokio::task::spawn_blocking(move || {
        let mut lines = out.lines();
        let told: Vec<_> = lines.by_ref().take(2).map(Result::unwrap).collect();
        (told, lines)
    });
    let (told, rest) = told.await.unwrap();
    let commands = [
        "to go on      orchestrator deployment promote default/web",
        "to take back  orchestrator deployment fail default/web",
    ];
    assert_eq!(told, commands);
    let ran = person.types("deployment promote web").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(code(watching).await, Some(0));
    let mut rest = rest.map(Result::unwrap);
    assert!(
        !rest.any(|line| line.starts_with("to ")),
        "it is told again"
    );
    // What never gets that far has ended as it has ended.
    let bad = fated(&canary(), "bad");
    person.writes("web.toml", &bad);
    let run = person
        .types("job run web.toml --detach --output json")
        .await;
    // By its id: by now the last deployment of the job may be the rollback.
    let id = run.json()["deployment_id"].as_str().unwrap().to_owned();
    let waits = format!("deployment watch {id} --until promotion");
    assert_eq!(person.types(&waits).await.code, 3);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_already_is_no_failure_though_a_restart_came_to_nothing() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let person = person(&server);
    assert_eq!(person.types("job run web.toml").await.code, 0);
    // Nobody says how it goes, so that it does not end by itself.
    server.silence();
    let (watching, _out) = first_line(&person, "job restart web").await;
    let canceled = person.types("deployment cancel web").await;
    assert_eq!(canceled.code, 0, "{canceled:?}");
    assert_eq!(code(watching).await, Some(4));
    let again = person.types("job run web.toml").await;
    assert_eq!(again.code, 0, "{again:?}");
    assert!(
        again.stdout.contains("nothing to change at version 1"),
        "{again:?}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_who_takes_it_back_sees_that_it_was() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let person = person(&server);
    assert_eq!(person.types("job run web.toml").await.code, 0);
    person.writes("web.toml", &with_fate("silent"));
    let (watching, _out) = first_line(&person, "job run web.toml").await;
    let (watched, _out2) = first_line(&person, "deployment watch web").await;
    let failed = person
        .types("deployment fail web --reason 'customers complain'")
        .await;
    assert!(failed.stdout.contains("customers complain"), "{failed:?}");
    assert_eq!(code(watching).await, Some(3));
    assert_eq!(code(watched).await, Some(3));
    server.stop().await;
}

/// Interrupts what watches, and gives what it says to that.
pub(crate) async fn interrupted(watching: Child) -> String {
    let mut kill = std::process::Command::new("kill");
    let killed = kill.args(["-INT", &watching.id().to_string()]).status();
    assert!(killed.unwrap().success());
    let ended = tokio::task::spawn_blocking(move || watching.wait_with_output());
    let ended = ended.await.unwrap().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    String::from_utf8(ended.stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_ends_the_watching_and_not_the_deployment() {
    let mut server = Server::start().await;
    server.nodes(1, as_told).await;
    let person = person(&server);
    person.writes("web.toml", &with_fate("silent"));
    person.types("job run web.toml --detach").await;
    let (watching, _out) = first_line(&person, "deployment watch web").await;
    let said = interrupted(watching).await;
    let again = "The deployment goes on. Watch it again: orchestrator deployment watch ";
    assert!(said.contains(again), "{said}");
    let off = "\nOr call it off: orchestrator deployment cancel ";
    assert!(said.contains(off), "{said}");
    let shown = person.types("deployment status web --output json").await;
    assert_eq!(shown.json()["deployment"]["status"]["state"], "in_progress");
    server.stop().await;
}

/// Between the two: breaks all connections whenever it is told something, and lets no new one through while that is
/// `true`.
async fn breaking_proxy(to: std::net::SocketAddr) -> (String, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (away, told) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut told = told.clone();
            tokio::spawn(async move {
                if *told.borrow_and_update() {
                    return;
                }
                let mut far = TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    _ = told.changed() => {}
                }
            });
        }
    });
    (address, away)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watching_outlives_a_server_that_is_away_for_a_while() {
    let mut server = Server::start().await;
    server.nodes(1, as_told).await;
    let (address, away) = breaking_proxy(server.client.address).await;
    let person = Person::at(address);
    person.writes("web.toml", &with_fate("silent"));
    let (mut watching, _out) = first_line(&person, "job run web.toml").await;
    let direct = crate::stories::person(&server);
    // The connection breaks, and the next one is good.
    away.send_replace(false);
    assert_eq!(direct.types("deployment pause web").await.code, 0);
    away.send_replace(true);
    let mut said = BufReader::new(watching.stderr.take().unwrap());
    let told = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        (line, said)
    });
    let (line, _said) = told.await.unwrap();
    assert!(line.ends_with("does not answer; trying again.\n"), "{line}");
    assert_eq!(direct.types("deployment cancel web").await.code, 0);
    away.send_replace(false);
    assert_eq!(code(watching).await, Some(4));
    server.stop().await;
}
