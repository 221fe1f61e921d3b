//! What workloads wrote, as a person reads it.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::{Api, Server, as_told};
use crate::run::Session;
use crate::stories::person;

/// Lines of job `web`, which begin at this position.
async fn wrote(api: &Api, node: &str, stream: &str, position: u64, lines: &[&str]) {
    let mut end = position;
    let lines = lines.iter().map(|text| {
        end += text.len() as u64 + 1;
        json!({ "end": end, "text": text })
    });
    let output = json!({
        "job": "default/web", "slot": 0, "version": 1, "generation": 3, "attempt": 1, "began": 9, "stream": stream,
        "position": position, "anew": true, "lines": lines.collect::<Vec<_>>(),
    });
    let body = json!({ "node": node, "outputs": [output] });
    let reply = api.post("/v1/agent/logs", body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_job_wrote_is_shown_and_followed() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let api = server.client.clone();
    let person = person(&server);
    person.types("job run web.toml --detach").await;
    wrote(
        &api,
        "n1",
        "stdout",
        0,
        &["listening on 8080", "", "a \x1b[2Jtrick"],
    )
    .await;
    wrote(&api, "n2", "stderr", 0, &["no such file"]).await;
    wrote(&api, "n1", "stdout", 100, &["ready"]).await;
    let mut session = Session::of(&person, "What a job's workloads wrote.");
    session.types("job logs web").await;
    session
        .types("job logs default/web --node n1 --tail 1")
        .await;
    session.types("job logs web --node n3").await;
    session.types("job logs other --follow").await;
    session.types("job logs web --tail 10001").await;
    session.is("logs");
    let ran = person.types("job logs web --tail 1 --output json").await;
    assert_eq!(ran.json()["lines"][0]["text"], "ready");

    for json in [false, true] {
        let form = if json { "--output json" } else { "" };
        let line = format!("job logs web --follow --tail 1 {form}");
        let mut command = person.command(&line);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = || lines.next().unwrap().unwrap();
        let text = |line: String| match json {
            true => {
                let line: Value = serde_json::from_str(&line).unwrap();
                format!(
                    "{}/0 | {}",
                    line["node"].as_str().unwrap(),
                    line["text"].as_str().unwrap()
                )
            }
            false => line,
        };
        let before = tokio::task::block_in_place(&mut next);
        let (seen, position) = if json {
            ("n2/0 | more", 18)
        } else {
            ("n1/0 | ready", 13)
        };
        assert_eq!(text(before), seen);
        wrote(&api, "n2", "stderr", position, &["more"]).await;
        let after = tokio::task::block_in_place(&mut next);
        assert_eq!(text(after), "n2/0 | more");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    server.stop().await;
}
