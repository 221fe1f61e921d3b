//! What a person sees at a terminal, and what a pipe does not get.

use std::io::Read;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Server, as_told};
use crate::outcomes::with_fate;
use crate::run::{Person, output};
use crate::stories::{canary, person};

/// The command in a terminal of 90 columns.
fn in_terminal(person: &Person, line: &str, no_color: bool) -> Command {
    in_terminal_of(90, person, line, no_color)
}

/// The command in a terminal of so many columns.
fn in_terminal_of(columns: u32, person: &Person, line: &str, no_color: bool) -> Command {
    let typed = person.command(line);
    let program = typed.get_program().to_str().unwrap();
    let inner = format!("stty cols {columns} rows 30; exec {program} {line}");
    let mut command = Command::new("script");
    command.args(["-qefc", &inner, "/dev/null"]);
    command.current_dir(person.dir()).env_clear();
    for (name, value) in typed.get_envs() {
        command.env(name, value.unwrap());
    }
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("TERM", "xterm").env("SHELL", "/bin/sh");
    if no_color {
        command.env("NO_COLOR", "1");
    }
    command.stdin(Stdio::null());
    command
}

/// What stands on the screen after all this was written.
fn screen(written: &str) -> Vec<String> {
    let mut lines: Vec<Vec<char>> = vec![Vec::new()];
    let (mut row, mut column) = (0, 0);
    let mut letters = written.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\n' => row += 1,
            '\r' => column = 0,
            '\x1b' => {
                assert_eq!(letters.next(), Some('['));
                let mut number = String::new();
                let code = loop {
                    match letters.next().unwrap() {
                        digit @ ('0'..='9' | ';') => number.push(digit),
                        code => break code,
                    }
                };
                match code {
                    'm' => {}
                    'A' => row -= number.parse::<usize>().unwrap(),
                    'J' => lines.truncate(row + 1),
                    other => panic!("an unknown code {other}"),
                }
                if code == 'J' {
                    lines.resize(row + 1, Vec::new());
                    lines[row].truncate(column);
                }
            }
            letter => {
                assert!(column < 90, "the terminal wraps: {written}");
                if lines.len() <= row {
                    lines.resize(row + 1, Vec::new());
                }
                lines[row].resize(column, ' ');
                lines[row].push(letter);
                column += 1;
            }
        }
    }
    lines
        .into_iter()
        .map(|line| line.into_iter().collect())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_is_drawn_over_itself_and_its_end_stays() {
    let mut server = Server::start().await;
    server.nodes(3, as_told).await;
    let person = person(&server);
    let canary = canary();
    for (no_color, name) in [(false, "web"), (true, "other")] {
        person.writes(
            "web.toml",
            &canary.replace("\"web\"", &format!("\"{name}\"")),
        );
        let mut command = in_terminal(&person, "job run web.toml", no_color);
        command.stdout(Stdio::piped());
        let (mut child, api) = (command.spawn().unwrap(), server.client.clone());
        let mut out = child.stdout.take().unwrap();
        let watching = tokio::task::spawn_blocking(move || {
            let mut written = Vec::new();
            let mut read = |until: &str| {
                while until.is_empty() || !String::from_utf8_lossy(&written).contains(until) {
                    let mut piece = [0; 4096];
                    match out.read(&mut piece).unwrap_or(0) {
                        0 => break,
                        read => written.extend(&piece[..read]),
                    }
                }
                String::from_utf8_lossy(&written).into_owned()
            };
            // Not before it was seen that it waits.
            let before = read("waiting for promotion");
            let job = format!("/v1/jobs/default/{name}");
            let promote = async {
                let job: Value = api.get(&job).await.json();
                let id = job["job"]["deployment_id"].as_str().unwrap();
                let path = format!("/v1/deployments/{id}/promote");
                api.post(&path, serde_json::json!({})).await.status
            };
            let status = tokio::runtime::Handle::current().block_on(promote);
            assert_eq!(status, 200);
            (before, read(""), child.wait().unwrap().code())
        });
        let (before, after, code) = watching.await.unwrap();
        assert_eq!(code, Some(0), "{after}");
        assert!(after.contains("\x1b[J"), "it is not drawn over: {after:?}");
        let (before, after_screen) = (screen(&before).join("\n"), screen(&after).join("\n"));
        assert!(
            before.contains("canaries      ####################"),
            "{before}"
        );
        assert!(before.contains("waiting for promotion"), "{before}");
        assert!(
            !after_screen.contains("waiting for promotion"),
            "{after_screen}"
        );
        let ends: Vec<&str> = after_screen.matches("3 of 3 updated").collect();
        assert_eq!(ends.len(), 1, "{after_screen}");
        let last = after_screen.trim_end().lines().last().unwrap();
        assert_eq!(last, "completed: 3 of 3 nodes updated");
        assert_eq!(after.contains("\x1b[32m"), !no_color, "{after:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_is_seen_in_its_wave() {
    let mut server = Server::start().await;
    server.nodes(3, as_told).await;
    let person = person(&server);
    let silent = with_fate("silent");
    person.writes("web.toml", &silent);
    let mut command = in_terminal(&person, "job run web.toml", true);
    command.stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let drawn = tokio::task::spawn_blocking(move || {
        let mut written = Vec::new();
        while !String::from_utf8_lossy(&written).contains("become healthy") {
            let mut piece = [0; 4096];
            let read = out.read(&mut piece).unwrap();
            assert!(read > 0, "it ended: {}", String::from_utf8_lossy(&written));
            written.extend(&piece[..read]);
        }
        (String::from_utf8_lossy(&written).into_owned(), out)
    });
    let (drawn, mut out) = drawn.await.unwrap();
    let shown = screen(&drawn).join("\n");
    let wave = "  wave 1        >>>>>>>>>>>>>>>>>>>>  0 of 2 updated";
    assert!(shown.contains(wave), "{shown}");
    assert!(
        shown.contains("  deadline      the next in 59m "),
        "{shown}"
    );
    let canceled = person.types("deployment cancel web").await;
    assert_eq!(canceled.code, 0, "{canceled:?}");
    let ended = tokio::task::spawn_blocking(move || {
        let mut rest = Vec::new();
        // The terminal is gone when the program is.
        let _ = out.read_to_end(&mut rest);
        child.wait().unwrap().code()
    });
    assert_eq!(ended.await.unwrap(), Some(4));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn colours_are_for_terminals_that_want_them() {
    let mut server = Server::start().await;
    server.nodes(1, as_told).await;
    let person = person(&server);
    let coloured = output(in_terminal(&person, "node list", false)).await;
    assert!(
        coloured.stdout.contains("\x1b[32mready\x1b[0m"),
        "{coloured:?}"
    );
    for (line, no_color) in [
        ("node list", true),
        ("node list --no-color", false),
        ("node list --output json", false),
        ("--help --no-color", false),
        ("nod --no-color", false),
        ("nod", true),
    ] {
        let plain = output(in_terminal(&person, line, no_color)).await;
        assert!(!plain.stdout.is_empty(), "{line}");
        assert!(!plain.stdout.contains('\x1b'), "{line}: {plain:?}");
    }
    for line in ["node list", "--help", "nod", "job run web.toml"] {
        let piped = person.types(line).await;
        let all = piped.stdout + &piped.stderr;
        assert!(!all.contains('\x1b'), "{line}: {all:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_narrow_terminal_shows_ids_and_states_whole() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let person = person(&server);
    assert_eq!(person.types("job run web.toml").await.code, 0);
    person.writes("web.toml", &with_fate("silent"));
    let ran = person
        .types("job run web.toml --detach --output json")
        .await;
    let id = ran.json()["deployment_id"].as_str().unwrap().to_owned();
    for columns in [80, 60] {
        let list = in_terminal_of(columns, &person, "deployment list", true);
        let list = output(list).await;
        let wide = |line: &&str| line.chars().count() > columns as usize;
        assert_eq!(list.lines().into_iter().find(wide), None, "{list:?}");
        assert!(list.lines()[1].starts_with(&id), "{list:?}");
        assert!(list.lines()[1].contains("in_progress"), "{list:?}");
        assert!(list.lines()[2].contains("completed"), "{list:?}");
        let message = list.lines()[2].contains("  completed: ");
        assert_eq!(message, columns == 80, "{list:?}");
        let audit = in_terminal_of(columns, &person, "audit list", true);
        let audit = output(audit).await;
        assert_eq!(audit.lines().into_iter().find(wide), None, "{audit:?}");
        assert!(audit.lines()[1].ends_with("  done"), "{audit:?}");
    }
    person.types("deployment cancel web").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_group_each_change_is_a_line_at_a_terminal_too() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let person = person(&server);
    person.writes(
        "release.toml",
        "name = \"release\"\n[[members]]\nfile = \"web.toml\"\n",
    );
    let ran = output(in_terminal(&person, "group run release.toml", false)).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let lines = [
        "release: group ",
        "  default/web: completed",
        "  completed: ",
    ];
    let places = lines.map(|line| ran.stdout.find(line));
    assert!(places.is_sorted() && places[0].is_some(), "{ran:?}");
    assert!(!ran.stdout.contains("\x1b["), "it is drawn over: {ran:?}");
    server.stop().await;
}
