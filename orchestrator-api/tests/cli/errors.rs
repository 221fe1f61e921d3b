//! Bad beginnings: each is one clear sentence and a code that is not 0.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use orchestrator_api::serve::tls::Certificates;
use orchestrator_api::serve::{Limits, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::harness::{Server, as_told};
use crate::run::{Person, Session};
use crate::stories::{WEB, person};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_file_that_is_wrong_is_shown_at_its_lines() {
    let mut server = Server::start().await;
    server.nodes(1, as_told).await;
    let person = person(&server);
    let mut session = Session::of(&person, "Job files that are wrong.");
    let wrong = WEB
        .replace("\"rolling\"", "\"rollng\"")
        .replace("max_parallel", "max_paralel")
        .replace("deadline = \"1h\"\n", "")
        .replace("\"8080\"]", "\"8080\"]\nsince = 2026-11-21");
    person.writes("wrong.toml", &wrong);
    session.types("job plan wrong.toml").await;
    session.types("job run wrong.toml").await;
    person.writes("broken.toml", "job_id = \ndriver = \"exec\n [config\n");
    session.types("job plan broken.toml").await;
    let wrong = "{\n  \"job_id\": \"web\", \"job_id\": \"web2\",\n\t\"driver\": \"exce\",\n  \"config\": {},\n  \"rollout\": { \"strategy\": 7 }\n}\n";
    person.writes("wrong.json", wrong);
    session.types("job plan wrong.json").await;
    let twice = "{ \"rollout\": { \"max_parallel\": 2 },\n  \"rollout\": 3,\n  \"job_id\": \"web\", \"driver\": \"exec\", \"config\": {} }\n";
    person.writes("twice.json", twice);
    session.types("job plan twice.json").await;
    person.writes("broken.json", "{\n  \"job_id\": }\n");
    session.types("job plan broken.json").await;
    let long = format!("a = [{}x]\n", "1, ".repeat(1000));
    person.writes("wide.toml", &long);
    session.types("job plan wide.toml").await;
    person.writes("windows.toml", "job_id = \r\ndriver = \"exec\r\n");
    session.types("job plan windows.toml").await;
    person.writes("letters.json", "{ \"ä\": \"ü\u{1}\" }");
    session.types("job plan letters.json").await;
    person.writes(
        "dated.toml",
        "job_id = 2026-11-21\ndriver = \"exec\"\n\n[config]\nsince = [2026-11-21]\n",
    );
    session.types("job plan dated.toml").await;
    // What the agents would refuse, whatever the server makes of it.
    person.writes("agents.toml", &WEB.replace("command", "comand"));
    session.types("job plan agents.toml").await;
    person.writes("words.toml", &WEB.replace("8080", "{PORTS}"));
    session.types("job plan words.toml").await;
    let blanks = r#"{ "job_id": "web", "driver": "exec", "config": { "command": "sleep 1000" } }"#;
    person.writes("blanks.json", blanks);
    session.types("job plan blanks.json").await;
    let single = "job_id = \"web\"\ndriver = \"exec\"\nconfig = { command = \"web\" }\n\n[checks]\ntype = \"tcp\"\n";
    person.writes("single.toml", single);
    session.types("job plan single.toml").await;
    person.writes(
        "group.toml",
        "name = \"shop\"\n\n[[members]]\nfile = \"web.toml\"\n",
    );
    session.types("job plan group.toml").await;
    session.types("group plan single.toml").await;
    session.types("job plan .").await;
    let checks = "[[ports]]\nname = \"http\"\n\n[[checks]]\ntype = \"tcp\"\n\n[[checks]]\ntype = \"http\"\npath = \"health\"\n";
    person.writes("checks.toml", &format!("{WEB}\n{checks}"));
    session.types("job run checks.toml").await;
    let third =
        "[[checks]]\ntype = \"process\"\n\n[[checks]]\ntype = \"process\"\nintervall = \"1s\"\n";
    person.writes("third.toml", &format!("{WEB}\n{third}"));
    session.types("job plan third.toml").await;
    person.writes(
        "soon.toml",
        &WEB.replace("\"1h\"", "\"20s\"").replace("\"0s\"", "\"1s\""),
    );
    session.types("job run soon.toml").await;
    person.writes("image.json", "{ \"job_id\": \"web\", \"driver\": \"docker\",\n  \"config\": { \"pull\": \"always\" } }\n");
    session.types("job run image.json").await;
    person.writes("web.yaml", "job_id: web\ndriver: exec\n");
    session.types("job plan web.yaml").await;
    session.types("job plan none.toml").await;
    person.writes("long.toml", &"#\n".repeat(1 << 20));
    session.types("job plan long.toml").await;
    std::fs::write(person.dir().join("latin.toml"), b"# \xe4\n").unwrap();
    session.types("job plan latin.toml").await;
    session.is("files");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_reads_errors_as_problems() {
    let server = Server::start().await;
    let person = person(&server);
    let mut session = Session::of(&person, "Errors, for programs: each is a problem.");
    session.types("job status nothing --output json").await;
    person.writes("wrong.toml", "job_id = \"web\"\ndriver = \"exce\"\n");
    session.types("job plan wrong.toml --output json").await;
    session.types("job plan none.toml --output json").await;
    session
        .types("deployment list --filter 'colour = red' --output json")
        .await;
    session.types("job rn --output=json").await;
    session
        .types("node list --output json --address localhost:4650")
        .await;
    session.types("node list --token x --output json").await;
    session.is("problems");
    server.stop().await;
    let gone = Session::of(&person, "")
        .types("node list --output json")
        .await;
    assert_eq!(gone.code, 1);
    let problem: serde_json::Value = serde_json::from_str(&gone.stderr).unwrap();
    assert_eq!(problem["type"], "urn:orchestrator:problem:no-server");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_and_what_is_typed_wrong() {
    let server = Server::start().await;
    let person = person(&server);
    let mut session = Session::of(&person, "What is not there, and what is typed wrong.");
    session.types("job status nothing").await;
    session.types("deployment watch nothing").await;
    let id = "01900000-0000-7000-8000-000000000000";
    session.types(&format!("deployment status {id}")).await;
    session.types(&format!("deployment promote {id}")).await;
    session.types("group status nothing").await;
    session.types(&format!("group cancel {id}")).await;
    session.types("group watch a/b").await;
    session.types("node drain n1").await;
    session
        .types("deployment list --filter 'colour = red AND'")
        .await;
    session.types("deployment list --state finished").await;
    session.types("job rn web.toml").await;
    session.types("job run").await;
    session.types("node status a/b").await;
    session.types("node list --address localhost:4650").await;
    session
        .types("node list --address http://[::1]:99999")
        .await;
    session.types("job run web.toml --timeout soon").await;
    session.types("node list --token-file none").await;
    session.types("node list --token-file /dev/null").await;
    session.types("node list --ca-cert none.pem").await;
    session.is("mistakes");
    server.stop().await;
}

#[tokio::test]
async fn what_the_agent_is_told_stands_after_its_name() {
    let person = Person::at("http://127.0.0.1:9");
    let help = person.types("agent --help").await;
    assert!(help.stdout.contains("--drain"), "{help:?}");
    assert_eq!(person.types("help agent").await.stdout, help.stdout);
    for line in [
        "--no-color agent --help",
        "--output text agent status --data-dir x",
        "--address http://127.0.0.1:4650 agent --node n1",
    ] {
        let ran = person.types(line).await;
        let said = "error: what the agent is told stands after `agent`, and nothing before it; see `orchestrator agent --help`\n";
        assert_eq!((ran.code, ran.stderr.as_str()), (64, said), "{line}");
    }
    let ran = person.types("--output json agent status").await;
    assert_eq!(ran.code, 64, "{ran:?}");
    assert!(ran.stderr.contains("problem:usage"), "{ran:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there() {
    // Nobody listens on a port that was just given back.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let person = Person::at(address);
    person.writes("web.toml", WEB);
    let mut session = Session::of(&person, "A server that is not there.");
    session.types("node list").await;
    session.types("job run web.toml").await;
    session.types("deployment watch web").await;
    person.writes(
        "release.toml",
        "name = \"r\"\n[[members]]\nfile = \"web.toml\"\n",
    );
    session.types("group run release.toml").await;
    session.types("group watch release").await;
    session.is("nobody");
}

/// Answers one connection after the other with these texts, and hands over what was asked.
fn answering(listener: TcpListener, answers: Vec<String>) -> JoinHandle<Vec<String>> {
    tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                let mut piece = [0; 1024];
                match stream.read(&mut piece).await.unwrap_or(0) {
                    0 => break,
                    read => head.extend(&piece[..read]),
                }
            }
            asked.push(String::from_utf8_lossy(&head).into_owned());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    })
}

pub(crate) async fn of_answers(answers: Vec<String>) -> (Person, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let person = Person::at(format!("http://{}", listener.local_addr().unwrap()));
    (person, answering(listener, answers))
}

/// An answer with this head and body.
pub(crate) fn http(head: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}")
}

const NODE: &str = r#"{"node":{"name":"n1","status":"draining","drain":true,"labels":{},"facts":{},"executions":0,
    "since":"2026-11-21T00:00:00.000Z"}}"#;

#[tokio::test]
async fn what_breaks_is_said_again_under_the_same_key() {
    let (person, asked) = of_answers(vec![
        String::new(),
        http("503 Busy\r\nretry-after: 0", ""),
        http("200 OK", NODE),
    ])
    .await;
    let ran = person.types("node drain n1 --token secret").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let said = "n1: draining, nothing new starts there, and what runs there ends: ";
    assert!(ran.stdout.starts_with(said), "{ran:?}");
    let asked = asked.await.unwrap();
    let field = |head: &String, name: &str| {
        let mut lines = head.lines();
        let found = lines.find_map(|line| line.strip_prefix(name).map(str::to_owned));
        found.unwrap_or_else(|| panic!("no {name} in {head}"))
    };
    let keys: Vec<String> = asked
        .iter()
        .map(|a| field(a, "idempotency-key: "))
        .collect();
    assert_eq!(keys, vec![keys[0].clone(); 3]);
    assert_eq!(field(&asked[0], "authorization: "), "Bearer secret");
}

#[tokio::test]
async fn what_is_no_orchestrator_is_told_from_one() {
    for (answers, expected) in [
        (
            vec![http("404 Not Found", "hello")],
            "is no orchestrator of this version: it answers 404 Not Found",
        ),
        (
            vec![http("200 OK", "hello")],
            "is no orchestrator of this version: it answers no JSON",
        ),
        (
            vec![http("200 OK", r#"{"nodes":[{}]}"#)],
            "is of another version of this API",
        ),
        (
            vec!["220 smtp\r\n".to_owned(); 3],
            "it does not speak HTTP; is it https:// rather than http://?",
        ),
        (
            vec![String::new(); 3],
            "gave no answer: the connection broke",
        ),
    ] {
        let (person, asked) = of_answers(answers).await;
        let ran = person.types("node list").await;
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{ran:?}");
        assert!(ran.stderr.contains(expected), "{expected}: {ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
        asked.await.unwrap();
    }
}

const INVALID: &str = r#"{"type":"urn:orchestrator:problem:invalid-request","title":"Invalid request","status":422,
    "detail":"2 things are wrong with the request: see `errors`","errors":[
    {"pointer":"/rollout/health_check/deadline","detail":"too long for us"},
    {"pointer":"/rollout/max_parallel","detail":"too many for us"}]}"#;

/// Another server may have other rules than this program.
#[tokio::test]
async fn what_the_server_finds_in_a_job_file_is_shown_at_its_lines() {
    let (person, _) = of_answers(vec![http("422 Unprocessable", INVALID); 2]).await;
    person.writes("web.toml", WEB);
    let ran = person.types("job run web.toml").await;
    let expected = "\
error: web.toml is wrong in 2 places

web.toml:9:16: rollout.max_parallel: too many for us
 9 | max_parallel = 2
   |                ^

web.toml:13:12: rollout.health_check.deadline: too long for us
 13 | deadline = \"1h\"
    |            ^^^^
";
    assert_eq!((ran.code, ran.stderr.as_str()), (1, expected));
    // Where there is no file, at the fields.
    let ran = person.types("node drain n1").await;
    let expected = "\
error: 2 things are wrong with the request
  /rollout/health_check/deadline: too long for us
  /rollout/max_parallel: too many for us
";
    assert_eq!((ran.code, ran.stderr.as_str()), (1, expected));
}

const TOKENS: &str = r#"{"tokens":[
    {"id":"4k2m9x0a7c1d","name":"ci","role":"deployer","active":true,"created_at":"2026-11-21T00:00:00.000Z",
     "created_by":"first","expires_at":"2036-11-21T00:00:00.000Z","last_used_at":"2026-11-21T00:00:00.000Z"},
    {"id":"9p2m9x0a7c1d","name":"n17","role":"node","node":"n17","active":false,
     "created_at":"2026-11-21T00:00:00.000Z","created_by":"first","revoked_at":"2026-11-21T00:00:00.000Z"}]}"#;
const AUDIT: &str = r#"{"lines":[{"number":1,"at":"2026-11-21T00:00:00.000Z","who":"ci (4k2m9x0a7c1d)","request":"r",
    "action":"register","object":"default/web","outcome":"done\u001b[2J"}]}"#;
const MADE: &str = r#"{"id":"4k2m9x0a7c1d","token":"orc_4k2m9x0a7c1d_x"}"#;

#[tokio::test]
async fn tokens_and_the_audit_log() {
    let (person, asked) = of_answers(vec![
        http("200 OK", TOKENS),
        http("201 Created", MADE),
        http("200 OK", TOKENS),
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        http("200 OK", AUDIT),
    ])
    .await;
    let mut session = Session::of(&person, "Tokens, and the audit log.");
    session.types("token list").await;
    session
        .types("token create --name ci --role deployer --expires-in 90d")
        .await;
    session.types("token revoke 4k2m9x0a7c1d").await;
    session.types("audit list --limit 1").await;
    session.is("token");
    let asked = asked.await.unwrap();
    let first: Vec<&str> = asked
        .iter()
        .filter_map(|head| head.lines().next())
        .collect();
    let expected = [
        "GET /v1/tokens?page_size=100 HTTP/1.1",
        "POST /v1/tokens HTTP/1.1",
        "GET /v1/tokens?page_size=1000 HTTP/1.1",
        "DELETE /v1/tokens/4k2m9x0a7c1d HTTP/1.1",
        "GET /v1/audit?page_size=1 HTTP/1.1",
    ];
    assert_eq!(first, expected);
}

const DENIED: &str = r#"{"type":"urn:orchestrator:problem:token-not-good","title":"Token not good","status":401,
    "detail":"the token was revoked"}"#;

#[tokio::test]
async fn a_token_that_is_wrong_or_missing() {
    let (person, _) = of_answers(vec![http("401 Unauthorized", DENIED); 2]).await;
    let ran = person.types("node list").await;
    let wanted = "error: the server wants a token: give one with --token-file, --token or ORCHESTRATOR_TOKEN\n";
    assert_eq!((ran.code, ran.stderr.as_str()), (1, wanted));
    person.writes("token", "orc_x\n");
    let ran = person.types("node list --token-file token").await;
    let wanted = "error: the token was revoked; see --token-file, --token and ORCHESTRATOR_TOKEN\n";
    assert_eq!((ran.code, ran.stderr.as_str()), (1, wanted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_trusted_when_its_authority_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let certificates = Certificates::watch(&cert, &key, Duration::from_secs(3600)).await;
    let tls = certificates.unwrap().config().unwrap();
    let router = Router::new().route("/v1/nodes", get(async || "{\"nodes\":[]}"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = serve(
        listener,
        Some(tls),
        router,
        Limits::default(),
        std::future::pending(),
    );
    let serving = tokio::spawn(serving);

    let person = Person::at(format!("https://localhost:{port}"));
    std::fs::copy(&cert, person.dir().join("ca.pem")).unwrap();
    let ran = person.types("node list --ca-cert ca.pem").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = person.types("node list").await;
    assert_eq!(ran.code, 1);
    let expected = format!("error: the certificate of https://localhost:{port} is not trusted: ");
    assert!(ran.stderr.starts_with(&expected), "{ran:?}");
    assert!(ran.stderr.ends_with("with --ca-cert\n"), "{ran:?}");
    let ran = person.types("node list --ca-cert none.pem").await;
    assert!(
        ran.stderr
            .starts_with("error: none.pem cannot be read: it is not there"),
        "{ran:?}"
    );
    let plain = Person::at(format!("http://localhost:{port}"));
    let ran = plain.types("node list").await;
    assert_eq!(ran.code, 1, "{ran:?}");
    serving.abort();
}
