//! Data of earlier programs: what they kept is read, and what they had begun goes on.
//!
//! `kept/` has a store of each program that wrote another form, and beside it what that program itself said of it.
//! `cargo test -p orchestrator-api --test native -- --ignored keep_what_today_writes` adds one of today's, named by `NAME`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::groups;
use crate::harness::{Api, Server, as_told, canary, immediate, job, rolling};

const DATABASE: &str = "orchestrator.db";
/// Lists that an upgrade leaves as they are.
const LISTS: [(&str, &str); 4] = [
    ("/v1/deployments?page_size=1000", "deployments"),
    ("/v1/jobs?page_size=1000", "jobs"),
    ("/v1/tokens?page_size=1000", "tokens"),
    ("/v1/jobs/default/web/versions", "versions"),
];

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/native/kept")
}

/// All that is there has the same value now. There may be more now.
fn is_kept(was: &Value, now: &Value, at: &str) {
    match (was, now) {
        (Value::Object(was), Value::Object(now)) => {
            for (key, was) in was {
                // Whose uses are counted on.
                if key != "last_used_at" {
                    let none = Value::Null;
                    is_kept(was, now.get(key).unwrap_or(&none), &format!("{at}/{key}"));
                }
            }
        }
        (Value::Array(was), Value::Array(now)) => {
            assert_eq!(was.len(), now.len(), "{at}");
            for (index, (was, now)) in was.iter().zip(now).enumerate() {
                is_kept(was, now, &format!("{at}/{index}"));
            }
        }
        (was, now) => assert_eq!(was, now, "{at}"),
    }
}

async fn lists(api: &Api) -> Value {
    let mut lists = json!({});
    for (path, name) in LISTS {
        let page = api.get(path).await.json();
        assert!(page["next_page_token"].is_null());
        lists[name] = page[name].clone();
    }
    // What goes on hears that time went by.
    let over = |shown: &Value| shown["status"]["completed_at"].is_string();
    let deployments = lists["deployments"].as_array_mut().unwrap();
    deployments.retain(over);
    lists
}

async fn events(api: &Api, id: &str) -> Value {
    let path = format!("/v1/deployments/{id}/events?page_size=1000");
    api.get(&path).await.json()["events"].clone()
}

async fn say(api: &Api, id: &str, what: &str) {
    let path = format!("/v1/deployments/{id}/{what}");
    let said = api.post(&path, json!({})).await;
    assert_eq!(said.status, 200, "{}", said.text());
}

/// A group of two jobs, of which the first one does this.
async fn begin_group(api: &Api, name: &str, fate: &str) -> Value {
    let first = json!({ "fate": fate });
    let (one, two) = (format!("{name}-1"), format!("{name}-2"));
    let group = json!({
        "name": name,
        "members": [groups::member(&one, &[], first), groups::member(&two, &[&one], json!({}))],
    });
    groups::begin(api, group).await["id"].clone()
}

#[tokio::test]
#[ignore = "writes a file that is kept"]
async fn keep_what_today_writes() {
    let name = std::env::var("NAME").expect("NAME says of which program");
    let mut server = Server::start().await;
    server.nodes(3, as_told).await;
    let api = &server.client;
    api.rolled_out(job("web", rolling(), json!({ "v": 1 })))
        .await;
    let web = api.register(job("web", canary(), json!({ "v": 2 }))).await;
    api.until(&web, |shown| shown["status"]["waiting_on"] == "promotion")
        .await;
    api.rolled_out(job("db", immediate(), json!({ "v": 1 })))
        .await;
    let db = api
        .register(job("db", rolling(), json!({ "v": 2, "fate": "silent" })))
        .await;
    say(api, &db, "pause").await;
    api.rolled_out(job("api", immediate(), json!({ "v": 1 })))
        .await;
    let bad = api
        .register(job("api", rolling(), json!({ "v": 2, "fate": "bad" })))
        .await;
    let bad = api.until_state(&bad, "failed").await;
    let back = bad["rolled_back_by"].as_str().unwrap().to_owned();
    api.until_state(&back, "completed").await;
    let mut some = job("some", rolling(), json!({}));
    some["replicas"] = json!(2);
    api.rolled_out(some).await;
    api.rolled_out(job("gone", immediate(), json!({}))).await;
    let stopped = api
        .post("/v1/jobs/default/gone/stop", json!({}))
        .await
        .json();
    let stopped = stopped["deployment_id"].as_str().unwrap();
    api.until_state(stopped, "completed").await;
    let drained = api.post("/v1/nodes/n3/drain", json!({})).await;
    assert_eq!(drained.status, 200);
    let ended = begin_group(api, "ended", "well").await;
    groups::until_state(api, &ended, "completed").await;
    let ended = groups::group(api, &ended).await;
    let under_way = begin_group(api, "under-way", "silent").await;
    let has_begun = |shown: &Value| shown["members"][0]["deployment_id"].is_string();
    let under_way = groups::until(api, &under_way, has_begun).await;
    let lists_without_tokens = lists(api).await;
    let said = json!({
        "ended_group": ended, "group_under_way": under_way,
        "web": web, "db": db, "back": back, "lists": lists_without_tokens,
        "events": events(api, &back).await,
    });
    let made = api.post("/v1/tokens", json!({ "name": "me", "role": "admin" }));
    let made = made.await.json();
    let mut said = said;
    said["token"] = made["token"].clone();
    said["lists"].as_object_mut().unwrap().remove("tokens");

    let dir = server.stop().await;
    let rest = std::fs::metadata(dir.path().join(format!("{DATABASE}-wal")));
    assert!(
        rest.is_err(),
        "all is in one file after an end in good order"
    );
    let bytes = std::fs::read(dir.path().join(DATABASE)).unwrap();
    let file = std::fs::File::create(kept().join(format!("{name}.db.gz"))).unwrap();
    let mut file = GzEncoder::new(file, Compression::best());
    file.write_all(&bytes).unwrap();
    file.finish().unwrap();
    let text = serde_json::to_string_pretty(&said).unwrap();
    std::fs::write(kept().join(format!("{name}.json")), text + "\n").unwrap();
}

#[tokio::test]
async fn what_earlier_programs_kept_goes_on() {
    let mut names: Vec<PathBuf> = std::fs::read_dir(kept())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    names.sort();
    assert!(!names.is_empty());
    for said in names {
        println!("{}", said.display());
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        let packed = std::fs::File::open(said.with_extension("db.gz")).unwrap();
        GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
        std::fs::write(dir.path().join(DATABASE), bytes).unwrap();
        let said: Value = serde_json::from_slice(&std::fs::read(said).unwrap()).unwrap();
        goes_on(dir, &said).await;
    }
}

async fn goes_on(dir: TempDir, said: &Value) {
    // As who is not asked for a token; the one that there is, is good.
    let mut server = Server::start_in(dir).await;
    let api = server.client.clone();
    let own = api.showing(said["token"].as_str().unwrap());
    let tokens = own.get("/v1/tokens").await;
    assert_eq!(tokens.status, 200, "{}", tokens.text());
    assert_eq!(tokens.json()["tokens"][0]["name"], "me");

    is_kept(&said["lists"], &lists(&api).await, "");
    let text = |name: &str| said[name].as_str().unwrap();
    let (web, db, back) = (text("web"), text("db"), text("back"));
    is_kept(&said["events"], &events(&api, back).await, "events");
    let why = api.get(&format!("/v1/deployments/{back}/explain")).await;
    assert_eq!(why.status, 200, "{}", why.text());
    let node = api.get("/v1/nodes/n3").await.json();
    assert_eq!(node["node"]["drain"], true, "{node}");
    assert_eq!(node["node"]["leaving"], false, "{node}");

    server.nodes(3, as_told).await;
    say(&api, web, "promote").await;
    let done = api.until_state(web, "completed").await;
    assert_eq!(done["status"]["updated_nodes"], 2, "{done:#}");
    say(&api, db, "resume").await;
    say(&api, db, "cancel").await;
    let path = "/v1/jobs/default/api/rollback";
    assert_eq!(api.post(path, json!({})).await.problem().0, 409);
    let next = api
        .rolled_out(job("api", rolling(), json!({ "v": 3 })))
        .await;
    let path = format!("/v1/deployments/{next}/rollback");
    let undone = api.post(&path, json!({})).await.json()["deployment"].clone();
    assert_eq!(undone["to_version"], 1, "{undone:#}");
    api.until_state(undone["id"].as_str().unwrap(), "completed")
        .await;
    // Earlier programs knew no groups.
    if said["group_under_way"].is_object() {
        let id = &said["ended_group"]["id"];
        is_kept(
            &said["ended_group"],
            &groups::group(&api, id).await,
            "group",
        );
        let id = &said["group_under_way"]["id"];
        let now = groups::group(&api, id).await;
        is_kept(&said["group_under_way"], &now, "group");
        let first = now["members"][0]["deployment_id"].as_str().unwrap();
        say(&api, first, "cancel").await;
        let failed = groups::until_state(&api, id, "failed").await;
        assert_eq!(failed["members"][1]["state"], "blocked", "{failed:#}");
    }
    let audit = api.get("/v1/audit?page_size=1000").await.json();
    let lines = audit["lines"].as_array().unwrap();
    let did = |action: &str| lines.iter().any(|line| line["action"] == action);
    assert!(
        did("drain") && did("rollback") && did("promote"),
        "{audit:#}"
    );
    server.stop().await;
}
