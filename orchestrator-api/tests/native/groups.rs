//! Groups of jobs: one after the other, back again, and what is refused.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Api, Server, as_told, canary, job, rolling};

const NOBODY: &str = "01969af3-6c00-7a1b-8c2d-0123456789ab";

/// One job of a group.
pub(crate) fn member(name: &str, after: &[&str], config: Value) -> Value {
    json!({ "job": name, "after": after, "spec": job(name, rolling(), config) })
}

/// `db`, then `api`, then `web`, each with this.
fn chain(configs: [Value; 3]) -> Value {
    let [db, api, web] = configs;
    json!({
        "name": "release",
        "members": [member("web", &["api"], web), member("db", &[], db), member("api", &["db"], api)],
    })
}

pub(crate) async fn begin(api: &Api, group: Value) -> Value {
    let begun = api.post("/v1/groups", group).await;
    assert_eq!(begun.status, 201, "{}", begun.text());
    let shown = begun.json()["group"].clone();
    let location = format!("/v1/groups/{}", shown["id"].as_str().unwrap());
    assert_eq!(begun.header("location"), location);
    shown
}

pub(crate) async fn group(api: &Api, id: &Value) -> Value {
    let path = format!("/v1/groups/{}", id.as_str().unwrap());
    let reply = api.get(&path).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let shown = reply.json()["group"].clone();
    assert_eq!(reply.header("etag"), format!("\"{}\"", shown["revision"]));
    shown
}

/// The group, as soon as this is true of it.
pub(crate) async fn until(api: &Api, id: &Value, is: impl Fn(&Value) -> bool) -> Value {
    let mut shown = group(api, id).await;
    while !is(&shown) {
        assert_eq!(shown["state"], "running", "{shown:#}");
        let (id, revision) = (id.as_str().unwrap(), &shown["revision"]);
        let path = format!("/v1/groups/{id}?revision={revision}&wait=30s");
        shown = api.get(&path).await.json()["group"].clone();
    }
    shown
}

pub(crate) async fn until_state(api: &Api, id: &Value, state: &str) -> Value {
    until(api, id, |shown| shown["state"] == state).await
}

/// The states of its jobs, in the order in which they may start.
fn states(group: &Value) -> Vec<(String, String)> {
    let members = group["members"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    members
        .map(|member| (text(&member["job_id"]), text(&member["state"])))
        .collect()
}

fn named(states: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = states
        .iter()
        .map(|(job, state)| ((*job).to_owned(), (*state).to_owned()));
    owned.collect()
}

async fn current(api: &Api, job: &str) -> Value {
    let reply = api.get(&format!("/v1/jobs/default/{job}")).await;
    reply.json()["job"]["current_version"].clone()
}

#[tokio::test]
async fn each_job_starts_after_those_that_it_is_after() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let api = &server.client;
    // It comes no further than its first job, which waits.
    let silent = json!({ "fate": "silent" });
    let begun = begin(api, chain([silent, json!({}), json!({})])).await;
    let id = &begun["id"];
    let waits = until(api, id, |shown| {
        shown["members"][0]["deployment_id"].is_string()
    })
    .await;
    let expected = [("db", "running"), ("api", "waiting"), ("web", "waiting")];
    assert_eq!(states(&waits), named(&expected));
    assert_eq!(waits["message"], "waiting for default/db to complete");
    assert_eq!(waits["members"][2]["after"], json!(["default/api"]));
    let jobs = api.get("/v1/jobs").await.json()["jobs"].clone();
    assert_eq!(
        jobs.as_array().unwrap().len(),
        1,
        "no other has begun: {jobs}"
    );

    // A person helps it on: it is well from now on, as far as the group is concerned.
    let deployment = waits["members"][0]["deployment_id"].as_str().unwrap();
    let canceled = format!("/v1/deployments/{deployment}/cancel");
    assert_eq!(api.post(&canceled, json!({})).await.status, 200);
    let failed = until_state(api, id, "failed").await;
    let expected = [("db", "canceled"), ("api", "blocked"), ("web", "blocked")];
    assert_eq!(states(&failed), named(&expected));
    assert_eq!(failed["members"][1]["blocked_by"], "default/db");
    assert_eq!(
        failed["message"],
        "failed: default/db canceled; default/api, default/web not started"
    );

    let begun = begin(api, chain([json!({}), json!({}), json!({})])).await;
    let done = until_state(api, &begun["id"], "completed").await;
    let expected = [
        ("db", "completed"),
        ("api", "completed"),
        ("web", "completed"),
    ];
    assert_eq!(states(&done), named(&expected));
    assert!(done["completed_at"].is_string());
    let mut begun_at = Vec::new();
    for member in done["members"].as_array().unwrap() {
        let shown = api
            .deployment(member["deployment_id"].as_str().unwrap())
            .await;
        let status = &shown["status"];
        begun_at.push(status["created_at"].as_str().unwrap().to_owned());
        begun_at.push(status["completed_at"].as_str().unwrap().to_owned());
    }
    assert!(begun_at.is_sorted(), "one after the other: {begun_at:?}");

    // The same again has nothing to do.
    let begun = begin(api, chain([json!({}), json!({}), json!({})])).await;
    let done = until_state(api, &begun["id"], "completed").await;
    let expected = [
        ("db", "unchanged"),
        ("api", "unchanged"),
        ("web", "unchanged"),
    ];
    assert_eq!(states(&done), named(&expected));
    server.stop().await;
}

#[tokio::test]
async fn a_bad_job_takes_back_what_it_is_connected_with_and_no_more() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let api = &server.client;
    let release = |version: u32, web: &str| {
        let config = |fate: &str| json!({ "v": version, "fate": fate });
        let mut group = chain([config("well"), config("well"), config(web)]);
        let other = member("other", &[], config("well"));
        group["members"].as_array_mut().unwrap().push(other);
        group
    };
    let first = begin(api, release(1, "well")).await;
    until_state(api, &first["id"], "completed").await;
    let second = begin(api, release(2, "bad")).await;
    let failed = until_state(api, &second["id"], "failed").await;
    let expected = [
        ("db", "taken_back"),
        ("other", "completed"),
        ("api", "taken_back"),
        ("web", "rolled_back"),
    ];
    assert_eq!(states(&failed), named(&expected));
    assert_eq!(
        failed["message"],
        "failed: default/web failed and went back by itself; default/api, default/db taken back"
    );
    for member in failed["members"].as_array().unwrap() {
        let job = member["job_id"].as_str().unwrap();
        let expected = if job == "other" { 2 } else { 1 };
        assert_eq!(current(api, job).await, expected, "{job}");
        assert_eq!(
            member["rollback_id"].is_string(),
            member["state"] == "taken_back"
        );
    }
    // They went back in the reverse order.
    let mut ended = Vec::new();
    for at in [2, 0] {
        let rollback = failed["members"][at]["rollback_id"].as_str().unwrap();
        let shown = api.deployment(rollback).await;
        ended.push(shown["status"]["created_at"].as_str().unwrap().to_owned());
        ended.push(shown["status"]["completed_at"].as_str().unwrap().to_owned());
    }
    assert!(ended.is_sorted(), "{ended:?}");

    // What was taken back is refused, unless it is said that it is meant; and nothing has begun.
    let (status, kind, _) = api.post("/v1/groups", release(2, "well")).await.problem();
    assert_eq!((status, kind.as_str()), (409, "taken-back"));
    let listed = api.get("/v1/groups").await.json()["groups"].clone();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let again = api.post("/v1/groups?again=true", release(2, "well")).await;
    assert_eq!(again.status, 201, "{}", again.text());
    let done = until_state(api, &again.json()["group"]["id"], "completed").await;
    assert_eq!(
        states(&done)[1],
        ("other".to_owned(), "unchanged".to_owned())
    );

    // Where nothing is to be taken back, it stays as it is.
    let mut stops = release(3, "bad");
    stops["on_failure"] = json!("stop");
    let third = begin(api, stops).await;
    let failed = until_state(api, &third["id"], "failed").await;
    assert_eq!(failed["on_failure"], "stop");
    assert_eq!(
        states(&failed)[0],
        ("db".to_owned(), "completed".to_owned())
    );
    server.stop().await;
}

#[tokio::test]
async fn what_a_job_refuses_in_its_turn_is_said_also_after_a_restart() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let api = &server.client;
    let config = |version: u32| json!({ "v": version });
    let document = |job_id: &str, rollout: Value| job(job_id, rollout, config(2));
    for name in ["db", "web"] {
        api.rolled_out(job(name, rolling(), config(1))).await;
    }
    // It waits for a person, and the other one for it.
    let begun = begin(
        api,
        json!({ "name": "release", "members": [
            { "job": "db", "spec": document("db", canary()) },
            { "job": "web", "after": ["db"], "spec": document("web", rolling()) },
            { "job": "last", "after": ["web"], "spec": document("last", rolling()) },
        ]}),
    )
    .await;
    let id = &begun["id"];
    let db = until(api, id, |shown| {
        shown["members"][0]["deployment_id"].is_string()
    })
    .await["members"][0]["deployment_id"]
        .clone();
    let db = db.as_str().unwrap();
    api.until(db, |shown| shown["status"]["waiting_on"] == "promotion")
        .await;
    // Meanwhile somebody has seen that it is not good.
    api.rolled_out(document("web", rolling())).await;
    let back = api.post("/v1/jobs/default/web/rollback", json!({})).await;
    let back = back.json()["deployment_id"].as_str().unwrap().to_owned();
    api.until_state(&back, "completed").await;
    // The group may be read from its log before it comes to that.
    let dir = server.stop().await;
    let mut server = Server::start_in(dir).await;
    server.nodes(2, as_told).await;
    let api = &server.client;
    let promote = format!("/v1/deployments/{db}/promote");
    assert_eq!(api.post(&promote, json!({})).await.status, 200);
    let failed = until_state(api, id, "failed").await;
    let expected = [("db", "taken_back"), ("web", "failed"), ("last", "blocked")];
    assert_eq!(states(&failed), named(&expected));
    let why = failed["members"][1]["reason"].as_str().unwrap();
    assert!(why.contains("was taken back"), "{why}");
    assert_eq!(failed["members"][0]["reason"], Value::Null);
    let dir = server.stop().await;
    let server = Server::start_in(dir).await;
    assert_eq!(group(&server.client, id).await, failed);
    server.stop().await;
}

#[tokio::test]
async fn a_group_is_canceled_once() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let api = &server.client;
    let silent = json!({ "fate": "silent" });
    let begun = begin(api, chain([silent.clone(), json!({}), json!({})])).await;
    let id = begun["id"].as_str().unwrap();
    let db = until(api, &begun["id"], |shown| {
        shown["members"][0]["deployment_id"].is_string()
    })
    .await["members"][0]["deployment_id"]
        .clone();

    // There is one of each name at a time.
    let refused = api
        .post("/v1/groups", chain([silent, json!({}), json!({})]))
        .await;
    let (status, kind, _) = refused.problem();
    assert_eq!((status, kind.as_str()), (409, "group-runs"));
    assert!(refused.text().contains(id), "{}", refused.text());

    let cancel = format!("/v1/groups/{id}/cancel");
    assert_eq!(api.post(&cancel, json!({})).await.status, 200);
    let canceled = until_state(api, &begun["id"], "canceled").await;
    let expected = [("db", "canceled"), ("api", "canceled"), ("web", "canceled")];
    assert_eq!(states(&canceled), named(&expected), "{canceled:#}");
    api.until_state(db.as_str().unwrap(), "canceled").await;
    // Said twice it is as said once; of one that ended otherwise it is refused.
    let again = api.post(&cancel, json!({})).await;
    assert_eq!((again.status, &again.json()["group"]), (200, &canceled));
    let begun = begin(api, chain([json!({}), json!({}), json!({})])).await;
    until_state(api, &begun["id"], "completed").await;
    let cancel = format!("/v1/groups/{}/cancel", begun["id"].as_str().unwrap());
    let (status, kind, _) = api.post(&cancel, json!({})).await.problem();
    assert_eq!((status, kind.as_str()), (409, "group-ended"));
    for path in ["/cancel", ""] {
        let path = format!("/v1/groups/{NOBODY}{path}");
        let reply = match path.ends_with("cancel") {
            true => api.post(&path, json!({})).await,
            false => api.get(&path).await,
        };
        assert_eq!(reply.problem().0, 404, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_group_goes_on_after_a_restart_and_its_key_is_good_once() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let api = &server.client;
    let document = chain([json!({ "fate": "silent" }), json!({}), json!({})]);
    let key = [("idempotency-key", "deploy-7")];
    let begun = api.post_with("/v1/groups", &key, document.clone()).await;
    assert_eq!(begun.status, 201, "{}", begun.text());
    let id = begun.json()["group"]["id"].clone();
    let twice = api.post_with("/v1/groups", &key, document.clone()).await;
    assert_eq!(twice.json()["group"]["id"], id);
    until(api, &id, |shown| {
        shown["members"][0]["deployment_id"].is_string()
    })
    .await;

    let dir = server.stop().await;
    let mut server = Server::start_in(dir).await;
    let api = server.client.clone();
    let before = group(&api, &id).await;
    assert_eq!(before["state"], "running");
    let again = api.post_with("/v1/groups", &key, document).await;
    assert_eq!(again.json()["group"]["id"], id);
    let other = chain([json!({}), json!({}), json!({})]);
    let (status, kind, _) = api.post_with("/v1/groups", &key, other).await.problem();
    assert_eq!((status, kind.as_str()), (422, "idempotency-key-reused"));

    // The agents are new, and say that it is well.
    server.nodes(2, |_| crate::harness::Fate::Well).await;
    let done = until_state(&api, &id, "completed").await;
    assert_eq!(
        done["members"][0]["deployment_id"],
        before["members"][0]["deployment_id"]
    );
    let starts = api.get("/v1/deployments").await.json()["deployments"].clone();
    assert_eq!(starts.as_array().unwrap().len(), 3, "each began once");
    server.stop().await;
}

#[tokio::test]
async fn a_group_that_cannot_be_read_is_read_again_and_keeps_nobody_else() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let api = &server.client;
    let silent = json!({ "fate": "silent" });
    let id = begin(api, chain([silent, json!({}), json!({})])).await["id"].clone();
    let has_begun = |shown: &Value| shown["members"][0]["deployment_id"].is_string();
    let db = until(api, &id, has_begun).await["members"][0]["deployment_id"].clone();
    let dir = server.stop().await;
    let path = dir.path().join("orchestrator.db");
    // Somebody has been at the file, and comes back.
    let change = |from: &str, to: &str| {
        let file = rusqlite::Connection::open(&path).unwrap();
        let logs = "(SELECT log FROM groups)";
        let sql = format!("UPDATE entries SET text = replace(text, ?1, ?2) WHERE log IN {logs}");
        assert!(file.execute(&sql, [from, to]).unwrap() > 0);
    };
    change("\"started\"", "\"damaged\"");
    let mut server = Server::start_in(dir).await;
    server.nodes(2, |_| crate::harness::Fate::Well).await;
    let api = &server.client;
    api.until_state(db.as_str().unwrap(), "completed").await;
    let other = json!({ "name": "other", "members": [member("else", &[], json!({}))] });
    let other = begin(api, other).await["id"].clone();
    until_state(api, &other, "completed").await;
    assert_eq!(group(api, &id).await["members"][1]["state"], "waiting");
    change("\"damaged\"", "\"started\"");
    // Nobody watches what is not there.
    let goes_on = async {
        while group(api, &id).await["state"] == "running" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(120), goes_on).await;
    ended.expect("it is read again, and goes on");
    assert_eq!(group(api, &id).await["state"], "completed");
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_group_is_said_at_its_place_and_at_once() {
    let server = Server::start().await;
    let api = &server.client;
    let mut wrong = chain([json!({}), json!({}), json!({})]);
    wrong["nonsense"] = json!(1);
    wrong["members"][0]["after"] = json!(["nobody"]);
    wrong["members"][1].as_object_mut().unwrap().remove("spec");
    wrong["members"][2]["spec"]["job_id"] = json!("else");
    let (status, _, errors) = api.post("/v1/groups", wrong.clone()).await.problem();
    assert_eq!(status, 422);
    let places: Vec<&str> = errors.iter().map(|(place, _)| place.as_str()).collect();
    let expected = [
        "/members/1/spec",
        "/members/2/spec/job_id",
        "/members/0/after/0",
        "/nonsense",
    ];
    for place in expected {
        assert!(places.contains(&place), "{place}: {errors:?}");
    }
    let mut bad = chain([json!({}), json!({}), json!({})]);
    bad["members"][1]["spec"]["rollout"]["strategy"] = json!("odd");
    let (_, _, errors) = api.post("/v1/groups", bad).await.problem();
    assert_eq!(
        errors[0].0, "/members/1/spec/rollout/strategy",
        "{errors:?}"
    );
    let mut circle = chain([json!({}), json!({}), json!({})]);
    circle["members"][1]["after"] = json!(["web"]);
    let (status, _, errors) = api.post("/v1/groups", circle).await.problem();
    assert_eq!(status, 422, "{errors:?}");
    let mut place = chain([json!({}), json!({}), json!({})]);
    place["members"][1] = member("..", &[], json!({}));
    let (status, _, errors) = api.post("/v1/groups", place).await.problem();
    assert_eq!(status, 422);
    assert!(
        errors.iter().any(|(at, _)| at == "/members/1/spec/job_id"),
        "{errors:?}"
    );

    // A job that would refuse its document keeps the group from beginning at all.
    let mut batch = chain([json!({}), json!({}), json!({})]);
    begin(api, batch.clone()).await;
    let groups = async || {
        api.get("/v1/groups").await.json()["groups"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(groups().await, 1);
    batch["name"] = json!("another");
    batch["members"][1]["spec"]["rollout"]["selector"] = json!("no selector");
    let refused = api.post("/v1/groups", batch).await;
    assert!((400..500).contains(&refused.status), "{}", refused.text());
    assert_eq!(groups().await, 1);
    server.stop().await;
}

#[tokio::test]
async fn groups_are_listed_by_name_the_newest_first() {
    let mut server = Server::start().await;
    server.nodes(1, as_told).await;
    let api = &server.client;
    let mut begun = Vec::new();
    for name in ["a", "b", "a", "a"] {
        let group = json!({ "name": name, "members": [member("web", &[], json!({}))] });
        let id = begin(api, group).await["id"].clone();
        until_state(api, &id, "completed").await;
        begun.insert(0, id);
    }
    let ids = async |path: &str| {
        let page = api.get(path).await.json();
        let groups = page["groups"].as_array().unwrap().iter();
        let ids: Vec<Value> = groups.map(|group| group["id"].clone()).collect();
        (ids, page["next_page_token"].clone())
    };
    assert_eq!(ids("/v1/groups").await, (begun.clone(), Value::Null));
    let (first, token) = ids("/v1/groups?name=a&page_size=2").await;
    assert_eq!(first, begun[..2]);
    let path = format!(
        "/v1/groups?name=a&page_size=2&page_token={}",
        token.as_str().unwrap()
    );
    assert_eq!(ids(&path).await, (vec![begun[3].clone()], Value::Null));
    let other = format!("/v1/groups?name=b&page_token={}", token.as_str().unwrap());
    assert_eq!(api.get(&other).await.problem().0, 400);
    assert_eq!(ids("/v1/groups?name=c").await.0, Vec::<Value>::new());
    server.stop().await;
}
