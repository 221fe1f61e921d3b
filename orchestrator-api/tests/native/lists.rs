//! Lists: what is in them, in what order, and that pages stay where they are.

use serde_json::{Value, json};

use crate::harness::{Api, Server, immediate, job, well};

async fn all(api: &Api, path: &str, name: &str, field: &str) -> Vec<String> {
    let (mut found, mut token) = (Vec::new(), String::new());
    loop {
        let reply = api.get(&format!("{path}{token}")).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let page = reply.json();
        let rows = page[name].as_array().unwrap().iter();
        found.extend(rows.map(|row| row[field].as_str().unwrap().to_owned()));
        match page["next_page_token"].as_str() {
            Some(next) => token = format!("&page_token={next}"),
            None => return found,
        }
    }
}

#[tokio::test]
async fn pages_stay_where_they_are_while_rows_come() {
    let mut server = Server::start().await;
    server.nodes(1, well).await;
    let api = &server.client;
    let mut ids = Vec::new();
    for number in 0..7 {
        ids.push(
            api.register(job(&format!("job-{number}"), immediate(), json!({})))
                .await,
        );
    }
    for id in &ids {
        api.until_state(id, "completed").await;
    }
    let first = api.get("/v1/deployments?page_size=3").await.json();
    let token = first["next_page_token"].as_str().unwrap().to_owned();
    for number in 7..9 {
        api.rolled_out(job(&format!("job-{number}"), immediate(), json!({})))
            .await;
    }
    let path = format!("/v1/deployments?page_size=3&page_token={token}");
    let second = api.get(&path).await.json();
    let names = |page: &Value| {
        let rows = page["deployments"].as_array().unwrap().iter();
        rows.map(|row| row["job_id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let mut seen = names(&first);
    seen.extend(names(&second));
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 6, "none twice");
    assert!(
        seen.iter().all(|name| name < &"job-7".to_owned()),
        "{seen:?}"
    );
    assert_eq!(
        all(api, "/v1/deployments?page_size=2", "deployments", "id")
            .await
            .len(),
        9
    );

    let jobs = all(api, "/v1/jobs?page_size=4", "jobs", "job_id").await;
    let expected: Vec<String> = (0..9).map(|number| format!("job-{number}")).collect();
    assert_eq!(jobs, expected);
    server.stop().await;
}

#[tokio::test]
async fn a_list_shows_what_was_asked_for() {
    let mut server = Server::start().await;
    server.nodes(3, well).await;
    let api = &server.client;
    for (namespace, name) in [("a", "web"), ("b", "web"), ("b", "db")] {
        let mut document = job(name, immediate(), json!({}));
        document["namespace"] = json!(namespace);
        let id = api.register(document).await;
        api.until_state(&id, "completed").await;
    }
    let stop = api.post("/v1/jobs/b/db/stop", json!({})).await.json();
    api.until_state(stop["deployment_id"].as_str().unwrap(), "completed")
        .await;
    let names = async |query: &str| {
        let path = format!("/v1/deployments?order_by=namespace,job_id,type&{query}");
        let page = api.get(&path).await;
        assert_eq!(page.status, 200, "{}", page.text());
        let rows = page.json()["deployments"].as_array().unwrap().clone();
        let name = |row: &Value| {
            let word = |field: &str| row[field].as_str().unwrap().to_owned();
            format!("{}/{} {}", word("namespace"), word("job_id"), word("type"))
        };
        rows.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    let everything = "a/web create, b/db create, b/db stop, b/web create";
    assert_eq!(names("").await, everything);
    assert_eq!(
        names("namespace=b&job_id=db").await,
        "b/db create, b/db stop"
    );
    assert_eq!(names("type=stop").await, "b/db stop");
    assert_eq!(names("state=completed").await, everything);
    assert_eq!(names("state=failed").await, "");
    let filter = "filter=job_id%20%3D%20web%20AND%20NOT%20namespace%20%3D%20b";
    assert_eq!(names(filter).await, "a/web create");
    assert_eq!(
        all(api, "/v1/jobs?namespace=b", "jobs", "job_id").await,
        ["db", "web"]
    );
    assert_eq!(
        all(api, "/v1/nodes?page_size=1", "nodes", "name").await,
        ["n1", "n2", "n3"]
    );
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_list_is_told_at_once() {
    let server = Server::start().await;
    let api = &server.client;
    for number in 0..3 {
        api.register(job(&format!("job-{number}"), immediate(), json!({})))
            .await;
    }
    let path = "/v1/deployments?state=gone&type=x&namespace=a%20b&filter=x%20%3D%201&order_by=y&page_size=0&pagesize=3&page_token=z";
    let (status, kind, errors) = api.get(path).await.problem();
    assert_eq!((status, kind.as_str()), (400, "malformed-request"));
    let places: Vec<&str> = errors.iter().map(|(place, _)| place.as_str()).collect();
    let expected = [
        "namespace",
        "state",
        "type",
        "filter",
        "order_by",
        "page_size",
        "pagesize",
    ];
    assert_eq!(places, expected);
    assert!(
        errors[6].1.contains("page_size"),
        "it names those that there are: {}",
        errors[6].1
    );
    for path in [
        "/v1/deployments?page_size=1001",
        "/v1/jobs?page_size=x",
        "/v1/nodes?page_size=-1",
        "/v1/jobs?page_size=1&page_size=1",
        "/v1/jobs?page_token=nonsense",
        "/v1/nodes?page_token=nonsense",
        "/v1/deployments?page_token=nonsense",
    ] {
        assert_eq!(api.get(path).await.problem().0, 400, "{path}");
    }
    // A token of one list is none of another.
    let page = api.get("/v1/deployments?page_size=1").await.json();
    let token = page["next_page_token"].as_str().unwrap();
    for path in [
        "/v1/deployments?state=completed&",
        "/v1/deployments?order_by=id&",
        "/v1/jobs?",
    ] {
        let (_, _, errors) = api
            .get(&format!("{path}page_token={token}"))
            .await
            .problem();
        assert_eq!(errors[0].0, "page_token", "{path}");
        assert!(errors[0].1.contains("another list"), "{}", errors[0].1);
    }
    server.stop().await;
}
