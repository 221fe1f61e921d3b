//! What changes while somebody looks: long polls, streams, restarts, and the end.

use axum::http::Method;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::{Server, as_told, canary, immediate, job, well};

#[tokio::test]
async fn a_long_poll_answers_when_the_revision_passes() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let api = &server.client;
    let id = api.under_way("web").await;
    let revision = api.deployment(&id).await["status"]["revision"]
        .as_u64()
        .unwrap();
    // Passed already.
    let path = format!("/v1/deployments/{id}?revision={}", revision - 1);
    assert_eq!(api.get(&path).await.status, 200);
    // Not passed in time: as it is.
    let path = format!("/v1/deployments/{id}?revision={revision}&wait=1ms");
    let same = api.get(&path).await.json();
    assert_eq!(same["deployment"]["status"]["revision"], revision);

    let path = format!("/v1/deployments/{id}?revision={revision}&wait=60s");
    let waiting = tokio::spawn({
        let api = api.clone();
        async move { api.get(&path).await.json() }
    });
    let paused = api
        .post(&format!("/v1/deployments/{id}/pause"), json!({}))
        .await;
    assert_eq!(paused.status, 200);
    let woken = waiting.await.unwrap();
    assert_eq!(woken["deployment"]["status"]["state"], "paused");
    assert_eq!(woken["deployment"]["status"]["revision"], revision + 1);

    for query in [
        "wait=1s",
        "revision=1&wait=61s",
        "revision=1&wait=soon",
        "revision=-1",
    ] {
        let wrong = api.get(&format!("/v1/deployments/{id}?{query}")).await;
        assert_eq!(wrong.problem().0, 400, "{query}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_the_deployment_and_is_resumed_where_it_was() {
    let mut server = Server::start().await;
    server.nodes(3, well).await;
    let api = &server.client;
    let id = api.register(job("web", canary(), json!({}))).await;
    let path = format!("/v1/deployments/{id}/events");
    let mut stream = api.stream(&path, &[]).await;
    let mut seen = vec![stream.next().await.unwrap()];
    assert_eq!(seen[0].1["kind"], "started");
    while seen.last().unwrap().1["kind"] != "updated" {
        seen.push(stream.next().await.unwrap());
    }
    let promote = format!("/v1/deployments/{id}/promote");
    assert_eq!(api.post(&promote, json!({})).await.status, 200);
    while let Some(event) = stream.next().await {
        seen.push(event);
    }
    let done = api.deployment(&id).await;
    assert_eq!(done["status"]["state"], "completed");
    let ids: Vec<u64> = seen.iter().map(|(id, _)| *id).collect();
    let revision = done["status"]["revision"].as_u64().unwrap();
    assert_eq!(
        ids,
        (1..=revision).collect::<Vec<_>>(),
        "all of it, once, in order"
    );
    assert_eq!(seen.last().unwrap().1["kind"], "ended");
    for (_, event) in &seen {
        let (kind, message) = (&event["kind"], event["message"].as_str().unwrap());
        let names = event["nodes"].as_array().map_or(0, Vec::len);
        let named = matches!(kind.as_str().unwrap(), "dispatched" | "healthy" | "updated");
        assert_eq!(names > 0, named, "{event}");
        assert_eq!(event["node_count"].as_u64().unwrap_or(0), names as u64);
        for name in event["nodes"].as_array().into_iter().flatten() {
            assert!(message.contains(name.as_str().unwrap()), "{event}");
        }
    }

    for last in [1, revision - 1] {
        let text = last.to_string();
        let mut resumed = api.stream(&path, &[("last-event-id", &text)]).await;
        let mut rest = Vec::new();
        while let Some(event) = resumed.next().await {
            rest.push(event);
        }
        assert_eq!(rest, seen[last as usize..]);
    }
    let text = revision.to_string();
    let headers = [
        ("accept", "text/event-stream"),
        ("last-event-id", text.as_str()),
    ];
    assert_eq!(api.send(Method::GET, &path, &headers, "").await.status, 204);
    // What it says is read even where nothing is to be resumed.
    for accept in ["text/event-stream", "application/json"] {
        let headers = [("accept", accept), ("last-event-id", "x")];
        let answer = api.send(Method::GET, &path, &headers, "").await;
        assert_eq!(answer.problem().0, 400, "{accept}");
    }
    // Nor where more was seen than there is: that was another history.
    let beyond = (revision + 1).to_string();
    for last in ["", &beyond, "9000000000000000000"] {
        let mut whole = api.stream(&path, &[("last-event-id", last)]).await;
        assert_eq!(whole.next().await, seen.first().cloned(), "{last}");
    }

    // The same in pages.
    let (mut paged, mut query) = (Vec::new(), "?page_size=2".to_owned());
    loop {
        let page = api.get(&format!("{path}{query}")).await.json();
        paged.extend(page["events"].as_array().unwrap().clone());
        match page["next_page_token"].as_str() {
            Some(token) => query = format!("?page_size=2&page_token={token}"),
            None => break,
        }
    }
    let streamed: Vec<Value> = seen.into_iter().map(|(_, event)| event).collect();
    assert_eq!(paged, streamed);
    server.stop().await;
}

#[tokio::test]
async fn the_end_of_the_server_ends_streams_and_long_polls_at_once() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let api = server.client.clone();
    let id = api.under_way("web").await;
    let mut events = api
        .stream(&format!("/v1/deployments/{id}/events"), &[])
        .await;
    events.next().await.unwrap();
    let mut desired = api.stream("/v1/agent/stream?node=n1", &[]).await;
    desired.next().await.unwrap();
    let revision = api.deployment(&id).await["status"]["revision"].clone();
    // Its head is answered only when it is over, so that it is known to wait is for the metrics to say.
    let path = format!("/v1/deployments/{id}?revision={revision}&wait=60s");
    let poll = tokio::spawn({
        let api = api.clone();
        async move {
            api.open(Method::GET, &path, &[], Bytes::new())
                .await
                .status()
        }
    });
    let began = std::time::Instant::now();
    tokio::task::yield_now().await;
    server.tell_to_stop();
    while events.next().await.is_some() {}
    while desired.next().await.is_some() {}
    let dir = server.stop().await;
    // Answered, or refused because it came too late.
    let _ = poll.await;
    assert!(began.elapsed().as_secs() < 20, "nothing waits for its end");

    // And what was acknowledged is there again.
    let server = Server::start_in(dir).await;
    let shown = server.client.deployment(&id).await;
    assert_eq!(shown["status"]["state"], "in_progress");
    server.stop().await;
}

#[tokio::test]
async fn old_deployments_are_read_after_a_restart() {
    let mut server = Server::start().await;
    server.nodes(2, well).await;
    let api = server.client.clone();
    let mut ids = Vec::new();
    for version in 1..=3 {
        let id = api
            .register(job("web", immediate(), json!({ "v": version })))
            .await;
        ids.push(api.until_state(&id, "completed").await);
    }
    let dir = server.stop().await;
    let server = Server::start_in(dir).await;
    for before in ids {
        let id = before["id"].as_str().unwrap();
        assert_eq!(server.client.deployment(id).await, before);
        let path = format!("/v1/deployments/{id}");
        // It does not change any more: there is nothing to wait for.
        let polled = server
            .client
            .get(&format!("{path}?revision=999&wait=60s"))
            .await;
        assert_eq!(polled.json()["deployment"], before);
        let mut stream = server.client.stream(&format!("{path}/events"), &[]).await;
        let mut count = 0;
        while stream.next().await.is_some() {
            count += 1;
        }
        assert_eq!(before["status"]["revision"], count);
    }
    server.stop().await;
}
