//! What holds for every route.

use axum::http::Method;
use orchestrator_core::spec::SPEC_BYTES_MAX;
use serde_json::{Value, json};

use crate::harness::{Server, immediate, job, well};

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let server = Server::start().await;
    let api = &server.client;
    for path in [
        "/v1",
        "/v1/job",
        "/v1/deployments/",
        "/v2/jobs",
        "/v1/jobs/a",
    ] {
        let (status, kind, _) = api.get(path).await.problem();
        assert_eq!((status, kind.as_str()), (404, "no-such-route"), "{path}");
    }
    let reply = api.send(Method::DELETE, "/v1/jobs", &[], "").await;
    assert_eq!(reply.problem().1, "no-such-method");
    let mut allowed: Vec<&str> = reply.header("allow").split(',').map(str::trim).collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
    let reply = api.send(Method::GET, "/v1/agent/join", &[], "").await;
    assert_eq!((reply.problem().0, reply.header("allow")), (405, "POST"));

    for path in [
        "/v1/deployments/7",
        "/v1/deployments/01969AF3-6C00-7A1B-8C2D-0123456789AB",
        "/v1/deployments/7/events",
        "/v1/jobs/a%20b/c",
        "/v1/jobs/a/%2F",
        "/v1/nodes/a%20b",
        "/v1/jobs/a/b/versions/x",
    ] {
        let (status, kind, errors) = api.get(path).await.problem();
        assert_eq!(
            (status, kind.as_str()),
            (400, "malformed-request"),
            "{path}"
        );
        assert_eq!(errors.len(), 1, "{path}");
    }
    assert_eq!(api.get("/v1/nodes/%FF").await.problem().0, 400);
    server.stop().await;
}

#[tokio::test]
async fn all_that_is_wrong_with_a_request_is_told_at_once() {
    let server = Server::start().await;
    let api = &server.client;
    let document = json!({
        "job_id": "a b", "driver": "magic", "colour": "red",
        "rollout": { "strategy": "canary", "health_check": { "deadline": "soon", "a/b": 1 } },
    });
    let (status, kind, errors) = api.post("/v1/jobs", document.clone()).await.problem();
    assert_eq!((status, kind.as_str()), (422, "invalid-request"));
    let mut places: Vec<&str> = errors.iter().map(|(place, _)| place.as_str()).collect();
    places.sort_unstable();
    let expected = [
        "/colour",
        "/config",
        "/driver",
        "/job_id",
        "/rollout/health_check/a~1b",
        "/rollout/health_check/deadline",
    ];
    assert_eq!(places, expected);

    // With what is wrong elsewhere.
    let headers = [("idempotency-key", ""), ("if-match", "x")];
    let path = "/v1/jobs?dry_run=yes&dryrun=true&expected_version=-1";
    let (status, _, errors) = api.post_with(path, &headers, document).await.problem();
    assert_eq!(status, 400);
    let places: Vec<&str> = errors.iter().map(|(place, _)| place.as_str()).collect();
    for place in [
        "idempotency-key",
        "if-match",
        "dry_run",
        "expected_version",
        "dryrun",
        "/colour",
    ] {
        assert!(places.contains(&place), "{place} in {places:?}");
    }
    assert_eq!(
        api.get("/v1/jobs").await.json()["jobs"],
        json!([]),
        "nothing was done"
    );

    for (path, body, pointer) in [
        ("/v1/jobs/a/b/restart", json!({ "x": 1 }), "/x"),
        ("/v1/jobs/a/b/rollback", json!({ "to": 1 }), "/to"),
        ("/v1/agent/join", json!({ "name": ".." }), "/name"),
        (
            "/v1/jobs/a/b/rollback",
            json!({ "to_version": "1" }),
            "/to_version",
        ),
        ("/v1/jobs/a/b/stop", json!([]), ""),
        (
            "/v1/jobs/a/b/scale",
            json!({ "replicas": 1.5 }),
            "/replicas",
        ),
        (
            "/v1/deployments/01969af3-6c00-7a1b-8c2d-0123456789ab/pause",
            json!({ "y": 1 }),
            "/y",
        ),
        (
            "/v1/deployments/01969af3-6c00-7a1b-8c2d-0123456789ab/fail",
            json!({ "reason": "x".repeat(501) }),
            "/reason",
        ),
        (
            "/v1/deployments/01969af3-6c00-7a1b-8c2d-0123456789ab/rollback",
            json!({ "to_version": -1 }),
            "/to_version",
        ),
        ("/v1/nodes/a/drain", json!({ "z": 1 }), "/z"),
        (
            "/v1/nodes/a/eligibility",
            json!({ "eligible": 1 }),
            "/eligible",
        ),
    ] {
        let (status, _, errors) = api.post(path, body).await.problem();
        assert_eq!((status, errors[0].0.as_str()), (422, pointer), "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_body_is_json_of_a_bounded_length() {
    let server = Server::start().await;
    let api = &server.client;
    let send = async |path: &str, headers: &[(&str, &str)], body: &str| {
        let reply = api.send(Method::POST, path, headers, body.to_owned()).await;
        let (status, kind, errors) = reply.problem();
        (status, kind, errors)
    };
    for headers in [&[][..], &[("content-type", "text/plain")]] {
        let (status, kind, _) = send("/v1/jobs", headers, "{}").await;
        assert_eq!((status, kind.as_str()), (415, "unsupported-media-type"));
    }
    for path in ["/v1/jobs", "/v1/jobs/a/b/scale", "/v1/agent/join"] {
        let (status, kind, errors) = send(path, &[JSON], "{\n\"a\":").await;
        assert_eq!(
            (status, kind.as_str()),
            (400, "malformed-request"),
            "{path}"
        );
        let (place, detail) = &errors[0];
        assert!(
            place.is_empty() && detail.contains("line 2"),
            "{place}: {detail}"
        );
    }
    let (status, _, errors) = send("/v1/jobs", &[JSON], "").await;
    assert_eq!((status, errors[0].0.as_str()), (400, ""));
    let charset = [("content-type", "application/json; charset=utf-8")];
    assert_eq!(send("/v1/jobs", &charset, "[]").await.0, 422);

    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(SPEC_BYTES_MAX));
    let (status, kind, _) = send("/v1/jobs", &[JSON], &large).await;
    assert_eq!((status, kind.as_str()), (413, "body-too-large"));
    let fits = format!("{}{{}}", " ".repeat(SPEC_BYTES_MAX - 2));
    assert_eq!(send("/v1/agent/join", &[JSON], &fits).await.0, 422);
    server.stop().await;
}

#[tokio::test]
async fn a_request_has_an_id() {
    let server = Server::start().await;
    let api = &server.client;
    let made = api.get("/healthz").await;
    let id = made.header("x-request-id");
    assert_eq!(id.parse::<uuid::Uuid>().unwrap().get_version_num(), 7);
    let given = api
        .send(Method::GET, "/healthz", &[("x-request-id", "abc-1")], "")
        .await;
    assert_eq!(given.header("x-request-id"), "abc-1");
    for wrong in ["a b", "", &"x".repeat(129)] {
        let reply = api
            .send(Method::GET, "/nowhere", &[("x-request-id", wrong)], "")
            .await;
        assert!(reply.header("x-request-id").parse::<uuid::Uuid>().is_ok());
    }
    server.stop().await;
}

#[tokio::test]
async fn it_says_how_it_is() {
    let mut server = Server::start().await;
    server.nodes(2, well).await;
    let api = &server.client;
    api.rolled_out(job("web", immediate(), json!({}))).await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(api.get(path).await.json(), json!({ "status": "ok" }));
    }
    api.get("/nowhere/else").await;
    let metrics = api.get("/metrics").await;
    assert!(
        metrics
            .header("content-type")
            .starts_with("application/openmetrics-text")
    );
    let text = metrics.text();
    for line in [
        "orchestrator_deployments{state=\"completed\"} 1",
        "orchestrator_nodes{status=\"ready\"} 2",
        "orchestrator_agents_connected 2",
        "http_streams 2",
        "http_request_duration_seconds_count{route=\"/v1/jobs\",method=\"POST\",status=\"201\"} 1",
        "http_request_duration_seconds_count{route=\"none\",method=\"GET\",status=\"404\"} 1",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    let value = |name: &str| -> u64 {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.trim().parse().unwrap()
    };
    assert!(value("orchestrator_commits_total") > 0);
    assert!(value("orchestrator_entries_total") >= value("orchestrator_commits_total"));
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(text.matches("# EOF").count(), 1);

    let first = api.get("/").await;
    assert_eq!((first.status, first.header("location")), (307, "/docs"));
    let docs = api.get("/docs").await;
    assert_eq!(docs.header("content-type"), "text/html; charset=utf-8");
    assert!(
        !docs.text().contains("https://"),
        "it loads nothing from elsewhere"
    );
    let head = api.send(Method::HEAD, "/healthz", &[], "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    let document: Value = api.get("/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    server.stop().await;
}
