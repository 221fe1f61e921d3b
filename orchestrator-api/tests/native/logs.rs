//! What workloads write: what is taken, and how it is shown.

use serde_json::{Value, json};

use crate::harness::{Server, immediate, job, well};

/// A part of the standard output of job `web` on a node; each line is as long as its text, and one byte more.
fn said(node: &str, position: u64, anew: bool, lines: &[&str]) -> Value {
    let mut end = position;
    let lines = lines.iter().map(|text| {
        end += text.len() as u64 + 1;
        json!({ "end": end, "text": text })
    });
    json!({ "node": node, "outputs": [{
        "job": "default/web", "slot": 0, "version": 1, "generation": 3, "attempt": 1, "began": 9, "stream": "stdout",
        "position": position, "anew": anew, "lines": lines.collect::<Vec<_>>(),
    }] })
}

async fn server() -> Server {
    let mut server = Server::start().await;
    server.nodes(2, well).await;
    let web = job("web", immediate(), json!({}));
    server.client.register(web).await;
    server
}

#[tokio::test]
async fn lines_are_taken_once_and_shown() {
    let server = server().await;
    let api = &server.client;
    let post = async |body: Value| {
        let reply = api.post("/v1/agent/logs", body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["have"][0].clone()
    };
    assert_eq!(post(said("n1", 0, false, &[])).await, Value::Null);
    assert_eq!(post(said("n1", 4, false, &["late"])).await, Value::Null);
    assert_eq!(post(said("n1", 0, true, &["one", "two"])).await, 8);
    assert_eq!(post(said("n1", 0, true, &["one", "two"])).await, 8);
    assert_eq!(post(said("n2", 0, true, &["other"])).await, 6);
    assert_eq!(post(said("n1", 20, false, &["late"])).await, 25);
    let show = async |query: &str| {
        let reply = api.get(&format!("/v1/jobs/default/web/logs{query}")).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let lines = reply.json()["lines"].as_array().unwrap().clone();
        let texts = lines
            .iter()
            .map(|line| line["text"].as_str().unwrap().to_owned());
        (texts.collect::<Vec<_>>(), lines)
    };
    assert_eq!(show("").await.0, ["one", "two", "other", "late"]);
    assert_eq!(show("?tail=2").await.0, ["other", "late"]);
    assert_eq!(show("?node=n1&tail=2").await.0, ["two", "late"]);
    assert!(show("?tail=0").await.0.is_empty());
    let (_, mut lines) = show("?node=n1&tail=1").await;
    assert!(lines[0]["at"].take().is_string());
    let expected = json!({
        "node": "n1", "slot": 0, "version": 1, "generation": 3, "attempt": 1, "stream": "stdout",
        "position": 20, "end": 25, "at": null, "text": "late",
    });
    assert_eq!(lines[0], expected);
    let metrics = api.get("/metrics").await.text();
    for line in [
        "log_lines_total 4",
        "log_left_out_bytes_total 12",
        "log_executions 2",
    ] {
        assert!(
            metrics.contains(&format!("orchestrator_{line}\n")),
            "{line}: {metrics}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_stream_goes_on_and_is_resumed_where_it_was() {
    let mut server = server().await;
    let api = server.client.clone();
    api.post("/v1/agent/logs", said("n1", 0, true, &["one", "two"]))
        .await;
    let path = "/v1/jobs/default/web/logs";
    let mut stream = api.stream(&format!("{path}?tail=1"), &[]).await;
    let (first, line) = stream.next().await.unwrap();
    assert_eq!(line["text"], "two");
    api.post("/v1/agent/logs", said("n2", 0, true, &["other"]))
        .await;
    let (second, line) = stream.next().await.unwrap();
    assert_eq!((&line["text"], second), (&json!("other"), first + 1));
    api.post("/v1/agent/logs", said("n1", 8, false, &["three"]))
        .await;
    assert_eq!(stream.next().await.unwrap().1["text"], "three");
    let mut own = api.stream(&format!("{path}?node=n2"), &[]).await;
    assert_eq!(own.next().await.unwrap().1["text"], "other");
    let resumed = [("last-event-id", &*first.to_string())];
    let mut resumed = api.stream(path, &resumed).await;
    assert_eq!(resumed.next().await.unwrap().0, second);
    assert_eq!(resumed.next().await.unwrap().1["text"], "three");
    // After a line that there is not, as where the server's clock was ahead, it begins anew.
    let ahead = [("last-event-id", "9000000000000000000")];
    let mut anew = api.stream(path, &ahead).await;
    assert_eq!(anew.next().await.unwrap().1["text"], "one");
    server.tell_to_stop();
    for mut stream in [stream, own, resumed] {
        assert!(stream.next().await.is_none());
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_told_at_its_place() {
    let server = server().await;
    let api = &server.client;
    for (path, status) in [
        ("/v1/jobs/default/other/logs", 404),
        ("/v1/jobs/default/web/logs?node=other", 404),
        ("/v1/jobs/default/web/logs?node=n1", 200),
        ("/v1/jobs/default/web/logs?tail=10001", 400),
        ("/v1/jobs/default/web/logs?tail=-1", 400),
        ("/v1/jobs/default/web/logs?since=1", 400),
    ] {
        assert_eq!(api.get(path).await.status, status, "{path}");
    }
    let mut wrong = said("n1", 10, true, &["one", &"x".repeat(8193)]);
    wrong["outputs"][0]["lines"][0]["end"] = json!(10);
    wrong["outputs"][0]["stream"] = json!("stdin");
    let (status, _, errors) = api.post("/v1/agent/logs", wrong).await.problem();
    let places: Vec<&str> = errors.iter().map(|(place, _)| place.as_str()).collect();
    assert_eq!(status, 422);
    assert_eq!(places, ["/outputs/0/stream", "/outputs/0/lines/0/end"]);
    let many = json!({ "node": "n1", "outputs": vec![json!({}); 1001] });
    assert_eq!(api.post("/v1/agent/logs", many).await.problem().0, 422);
    server.stop().await;
}
