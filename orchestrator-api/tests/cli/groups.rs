//! Several jobs, in the order of what depends on what.

use std::io::BufRead;

use serde_json::Value;

use crate::errors::{http, of_answers};
use crate::harness::{Server, as_told};
use crate::outcomes::{code, first_line, interrupted, with_fate};
use crate::run::{Person, Session};
use crate::stories::{WEB, person};

const RELEASE: &str = r#"name = "release"

[[members]]
file = "web.toml"
after = ["api"]

[[members]]
file = "jobs/db.toml"

[[members]]
job = "api"
after = ["db"]

[members.spec]
job_id = "api"
driver = "exec"
config = { command = ["api"] }

[members.spec.rollout]
strategy = "rolling"
health_check = { deadline = "1h", min_healthy_time = "0s", failure_threshold = 1 }
"#;

/// The file of a job of this name; its workload is of this version, and of this fate.
fn job(name: &str, version: u32, fate: &str) -> String {
    // Of two in a wave either would be the first to fail.
    with_fate(fate)
        .replace("max_parallel = 2", "max_parallel = 1")
        .replace("\"web\"", &format!("\"{name}\""))
        .replace("8080", &version.to_string())
}

/// Files of the group, its jobs at this version.
fn writes(person: &Person, version: u32, db: &str, web: &str) {
    let _ = std::fs::create_dir(person.dir().join("jobs"));
    person.writes("release.toml", RELEASE);
    person.writes("jobs/db.toml", &job("db", version, db));
    person.writes("web.toml", &job("web", version, web));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_from_its_plan_to_its_cancel() {
    let mut server = Server::start().await;
    server.nodes(3, as_told).await;
    let person = person(&server);
    let mut session = Session::of(&person, "A group of jobs, from its plan to its cancel.");
    writes(&person, 1, "well", "well");
    session.types("group plan release.toml").await;
    session.watches("group run release.toml").await;
    session.types("group list").await;
    session.types("group status release").await;
    session.watches("group run release.toml").await;
    // A bad release is taken back, all of it.
    writes(&person, 2, "well", "bad");
    let ran = session.watches("group run release.toml").await;
    assert_eq!(ran.code, 3, "{ran:?}");
    session.types("group status release").await;
    session.types("job status db").await;
    session.types("group run release.toml").await;
    // One that does not come to its end is called off.
    writes(&person, 3, "silent", "well");
    session.types("group run release.toml --detach").await;
    session.types("group run release.toml --detach").await;
    session.watches("group cancel release").await;
    session.types("group status release").await;
    session.types("group watch release").await;
    session.types("group cancel release --detach").await;
    session.types("group list --name release --limit 2").await;
    session.types("group list --name other").await;
    session.is("group");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_is_a_line_and_a_failure_has_its_reason() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let person = person(&server);
    writes(&person, 1, "silent", "well");
    let (watching, mut out) = first_line(&person, "group run release.toml").await;
    let mut line = || {
        let mut said = String::new();
        tokio::task::block_in_place(|| out.read_line(&mut said)).unwrap();
        match said.split_once("Z  ") {
            Some((_, text)) => text.to_owned(),
            None => said,
        }
    };
    assert_eq!(line(), "waiting for default/db to complete\n");
    let running = line();
    let job = person.types("job status db --output json").await;
    let id = job.json()["job"]["deployment_id"].clone();
    let id = id.as_str().unwrap();
    assert_eq!(running, format!("default/db: running, deployment {id}\n"));
    assert_eq!(person.types("deployment cancel db").await.code, 0);
    for expected in [
        "default/db: canceled\n",
        "default/api: blocked by default/db\n",
        "default/web: blocked by default/db\n",
        "failed: default/db canceled; default/api, default/web not started\n",
        "default/db: canceled by an operator: 0 of 2 nodes updated, nodes stay as they are\n",
        "",
    ] {
        assert_eq!(line(), expected);
    }
    assert_eq!(code(watching).await, Some(2));
    // Who comes later sees how it stands.
    let ran = person.types("group watch release").await;
    assert_eq!(ran.code, 2, "{ran:?}");
    let first = format!("Z  default/db: canceled, deployment {id}\n");
    assert!(ran.stdout.contains(&first), "{ran:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_code_says_how_a_group_ended() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let person = person(&server);
    writes(&person, 1, "well", "well");
    assert_eq!(person.types("group run release.toml").await.code, 0);
    writes(&person, 2, "well", "bad");
    assert_eq!(person.types("group run release.toml").await.code, 3);
    let refused = person.types("group run release.toml").await;
    assert_eq!(refused.code, 1, "{refused:?}");
    let ran = person.types("group run release.toml --again").await;
    assert_eq!(ran.code, 3, "{ran:?}");

    // Where nothing is to be taken back, it was not.
    writes(&person, 3, "well", "bad");
    person.writes("release.toml", &stopping());
    let ran = person.types("group run release.toml").await;
    assert_eq!(ran.code, 2, "{ran:?}");

    writes(&person, 4, "silent", "well");
    let ran = person.types("group run release.toml --timeout 100ms").await;
    assert_eq!(ran.code, 5, "{ran:?}");
    let again = "It is still under way. Watch it again: orchestrator group watch ";
    assert!(ran.stderr.starts_with(again), "{ran:?}");
    let (watching, _out) = first_line(&person, "group watch release").await;
    let said = interrupted(watching).await;
    assert!(said.contains("The group goes on. Watch it again: orchestrator group watch "));
    assert!(
        said.contains("\nOr call it off: orchestrator group cancel "),
        "{said}"
    );

    let (watching, _out) = first_line(&person, "group watch release").await;
    let ran = person.types("group cancel release").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(code(watching).await, Some(4));
    server.stop().await;
}

fn stopping() -> String {
    RELEASE.replacen("\n\n", "\non_failure = \"stop\"\n\n", 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_read_of_a_group_what_the_server_says() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let person = person(&server);
    writes(&person, 1, "well", "well");
    let ran = person.types("group run release.toml --output json").await;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    let lines = ran.lines();
    let lines: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let revisions: Vec<u64> = lines
        .iter()
        .map(|line| line["group"]["revision"].as_u64().unwrap())
        .collect();
    assert!(revisions.is_sorted_by(|a, b| a < b), "{revisions:?}");
    let id = lines[0]["group"]["id"].as_str().unwrap();
    let path = format!("/v1/groups/{id}");
    let api = &server.client;
    assert_eq!(*lines.last().unwrap(), api.get(&path).await.json());
    for (line, path) in [
        ("group list", "/v1/groups"),
        ("group list --name release", "/v1/groups?name=release"),
        ("group list --name other", "/v1/groups?name=other"),
        ("group status release", &path),
        (&format!("group status {id}"), &path),
        ("group watch release", &path),
        ("group cancel release --detach", ""),
    ] {
        let ran = person.types(&format!("{line} --output json")).await;
        if path.is_empty() {
            let problem: Value = serde_json::from_str(&ran.stderr).unwrap();
            assert_eq!(problem["type"], "urn:orchestrator:problem:group-ended");
            continue;
        }
        assert_eq!(ran.json(), api.get(path).await.json(), "{line}");
    }
    let again = person
        .types("group run release.toml --detach --output json")
        .await;
    assert_ne!(again.json()["group"]["id"], id, "{again:?}");
    let plan = person.types("group plan release.toml --output json").await;
    let expected = serde_json::json!([["default/db"], ["default/api"], ["default/web"]]);
    assert_eq!(plan.json()["plan"]["waves"], expected);
    server.stop().await;
}

/// Nobody is asked: there is no server.
#[tokio::test]
async fn all_that_is_wrong_with_a_group_file_is_shown_at_once() {
    let person = Person::at("http://127.0.0.1:9");
    writes(&person, 1, "well", "well");
    let mut session = Session::of(&person, "Group files that are wrong.");
    session.types("group plan none.toml").await;
    session.types("group run none.toml").await;
    let circle = RELEASE.replace(
        "file = \"jobs/db.toml\"",
        "file = \"jobs/db.toml\"\nafter = [\"web\"]",
    );
    person.writes("circle.toml", &circle);
    session.types("group plan circle.toml").await;
    session.types("group run circle.toml").await;
    let wrong = RELEASE
        .replace(
            "name = \"release\"",
            "name = \"re lease\"\non_failure = \"rolback\"",
        )
        .replace("after = [\"api\"]", "afer = [\"api\"]")
        .replace("jobs/db.toml", "jobs/dbb.toml")
        .replace("job = \"api\"", "job = \"apis\"")
        .replace("\"rolling\"", "\"rollng\"");
    let wrong =
        wrong + "\n[[members]]\nafter = [\"db\"]\n\n[[members]]\nfile = \"web.toml\"\nspec = {}\n";
    person.writes("wrong.toml", &wrong);
    person.writes("web.toml", &WEB.replace("\"exec\"", "\"exce\""));
    session.types("group plan wrong.toml").await;
    // Members that depend on what is not there, and on themselves; a job twice; what is no file.
    person.writes("web.toml", WEB);
    let others = RELEASE
        .replace("[\"api\"]", "[\"nobody\", \"web\"]")
        .replace("jobs/db.toml", "web.toml")
        + "\n[[members]]\njob = \"other\"\nfile = \"-\"\n";
    person.writes("others.toml", &others);
    session.types("group plan others.toml").await;
    let twice = "{ \"name\": \"a\", \"name\": \"b\",\n  \"members\": [{ \"file\": \"web.toml\", \"file\": \"web.toml\" }, 7] }\n";
    person.writes("twice.json", twice);
    session.types("group plan twice.json").await;
    person.writes("broken.toml", "name = \n");
    session.types("group plan broken.toml").await;
    person.writes(
        "broken_member.toml",
        "name = \"a\"\n[[members]]\nfile = \"broken.toml\"\n",
    );
    session.types("group plan broken_member.toml").await;
    session
        .types("group plan broken_member.toml --output json")
        .await;
    person.writes("empty.toml", "");
    session.types("group plan empty.toml").await;
    let long = WEB.replace("8080", &"8".repeat(600_000));
    person.writes("web.toml", &long);
    person.writes("more.toml", &long.replace("\"web\"", "\"more\""));
    person.writes(
        "long.toml",
        "name = \"a\"\n[[members]]\nfile = \"web.toml\"\n[[members]]\nfile = \"more.toml\"\n",
    );
    session.types("group plan long.toml").await;
    session.is("group_files");
}

const INVALID: &str = r#"{"type":"urn:orchestrator:problem:invalid-request","title":"Invalid request","status":422,
    "detail":"3 things are wrong with the request: see `errors`","errors":[
    {"pointer":"/members/1/spec/rollout/max_parallel","detail":"too many for us"},
    {"pointer":"/members/2/spec/rollout/strategy","detail":"too modern for us"},
    {"pointer":"/members/0/after/0","detail":"too late for us"}]}"#;

/// Another server may have other rules than this program.
#[tokio::test]
async fn what_the_server_finds_in_a_group_is_shown_at_its_lines() {
    let (person, _) = of_answers(vec![http("422 Unprocessable", INVALID)]).await;
    writes(&person, 1, "well", "well");
    let ran = person.types("group run release.toml").await;
    let expected = "\
error: jobs/db.toml is wrong in one place

jobs/db.toml:12:16: rollout.max_parallel: too many for us
 12 | max_parallel = 1
    |                ^

release.toml is wrong in 2 places

release.toml:5:10: members[0].after[0]: too late for us
 5 | after = [\"api\"]
   |          ^^^^^

release.toml:20:12: members[2].spec.rollout.strategy: too modern for us
 20 | strategy = \"rolling\"
    |            ^^^^^^^^^
";
    assert_eq!((ran.code, ran.stderr.as_str()), (1, expected));
}

const ENDED: &str = r#"{"group":{"id":"01900000-0000-7000-8000-000000000000","name":"release","on_failure":"rollback",
    "state":"failed","message":"failed: default/db failed; default/api, default/web failed","revision":9,
    "created_at":"2026-11-21T00:00:00.000Z","completed_at":"2026-11-21T00:01:00.000Z","members":[
    {"namespace":"default","job_id":"db","after":[],"state":"failed","outcome":"failed"},
    {"namespace":"default","job_id":"api","after":[],"state":"failed","outcome":"failed",
     "deployment_id":"01900000-0000-7000-8000-000000000001"},
    {"namespace":"default","job_id":"web","after":[],"state":"take_back_failed","outcome":"completed",
     "deployment_id":"01900000-0000-7000-8000-000000000002"}]}}"#;
const NO_DEPLOYMENT: &str = r#"{"type":"urn:orchestrator:problem:not-found","title":"Not found","status":404,
    "detail":"there is no deployment 01900000-0000-7000-8000-000000000001"}"#;

#[tokio::test]
async fn why_a_job_failed_is_said_also_where_no_deployment_tells() {
    let answers = [http("200 OK", ENDED), http("404 Not Found", NO_DEPLOYMENT)];
    let (person, asked) = of_answers(answers.into()).await;
    let ran = person
        .types("group watch 01900000-0000-7000-8000-000000000000")
        .await;
    assert_eq!((ran.code, ran.stderr.as_str()), (2, ""), "{ran:?}");
    let lines = ran.lines();
    assert_eq!(lines.len(), 6, "{ran:?}");
    assert_eq!(
        lines[4..],
        [
            "default/db: it was refused: the server's log says why",
            "default/web: it was refused: the server's log says why",
        ]
    );
    assert_eq!(asked.await.unwrap().len(), 2);
}
