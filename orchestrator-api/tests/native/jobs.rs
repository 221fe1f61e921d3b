//! Jobs: registering, planning and reading them.

use orchestrator_api::native::schema;
use serde_json::{Value, json};

use crate::harness::{Server, canary, immediate, job, rolling, well};

#[tokio::test]
async fn a_job_is_registered_and_read() {
    let mut server = Server::start().await;
    server.nodes(2, well).await;
    let api = &server.client;
    let reply = api
        .post("/v1/jobs", job("web", immediate(), json!({ "v": 1 })))
        .await;
    assert_eq!(reply.status, 201);
    assert_eq!(reply.header("location"), "/v1/jobs/default/web");
    let answer = reply.json();
    let id = answer["deployment_id"].as_str().unwrap().to_owned();
    assert_eq!(answer["version"], 1);
    assert_eq!(answer["changed"], true);
    assert_eq!(answer["job"]["deployment_id"], *id);
    api.until_state(&id, "completed").await;

    let shown = api.get("/v1/jobs/default/web").await;
    assert_eq!(shown.header("etag"), "\"1\"");
    let expected = json!({ "job": {
        "namespace": "default", "job_id": "web", "type": "service", "version": 1,
        "current_version": 1, "stable_versions": [1], "deployment_id": id,
    } });
    assert_eq!(shown.json(), expected);

    // The very same again is nothing to do.
    let same = api
        .post("/v1/jobs", job("web", immediate(), json!({ "v": 1 })))
        .await;
    assert_eq!((same.status, &same.json()["changed"]), (200, &json!(false)));

    api.rolled_out(job("web", immediate(), json!({ "v": 2 })))
        .await;
    let versions = api.get("/v1/jobs/default/web/versions").await.json();
    let versions = versions["versions"].as_array().unwrap();
    let told: Vec<(u64, bool, bool)> = versions
        .iter()
        .map(|v| {
            let flag = |name: &str| v[name].as_bool().unwrap();
            (
                v["version"].as_u64().unwrap(),
                flag("stable"),
                flag("current"),
            )
        })
        .collect();
    assert_eq!(told, [(1, true, false), (2, true, true)]);
    let one = api.get("/v1/jobs/default/web/versions/1").await.json();
    assert_eq!(one["spec"]["config"], json!({ "v": 1 }));
    assert_eq!(
        api.get("/v1/jobs/default/web/versions/3").await.problem().0,
        404
    );
    let first = api
        .get("/v1/jobs/default/web/versions?page_size=1")
        .await
        .json();
    let token = first["next_page_token"].as_str().unwrap();
    let path = format!("/v1/jobs/default/web/versions?page_size=1&page_token={token}");
    let next = api.get(&path).await.json();
    assert_eq!(next["versions"][0]["version"], 2);
    assert_eq!(next.get("next_page_token"), None);

    for path in ["", "/versions", "/versions/1"] {
        let missing = api.get(&format!("/v1/jobs/default/db{path}")).await;
        assert_eq!(missing.problem().1, "not-found");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_job_takes_the_commands_that_fit() {
    let mut server = Server::start().await;
    server.nodes(3, well).await;
    let api = &server.client;
    let say = async |what: &str, body: Value| {
        let reply = api
            .post(&format!("/v1/jobs/default/web/{what}"), body)
            .await;
        assert_eq!(reply.status, 200, "{what}: {}", reply.text());
        let id = reply.json()["deployment_id"].as_str().unwrap().to_owned();
        api.until_state(&id, "completed").await
    };
    for version in 1..=2 {
        let mut document = job("web", immediate(), json!({ "v": version }));
        document["replicas"] = json!(2);
        let id = api.register(document).await;
        api.until_state(&id, "completed").await;
    }
    assert_eq!(say("restart", json!({})).await["type"], "restart");
    let back = say("rollback", json!({ "to_version": 1 })).await;
    assert_eq!(
        (&back["type"], &back["to_version"]),
        (&json!("rollback"), &json!(1))
    );
    let scaled = api
        .post("/v1/jobs/default/web/scale", json!({ "replicas": 3 }))
        .await;
    assert_eq!(scaled.status, 200, "{}", scaled.text());
    let stopped = say("stop", json!({})).await;
    assert_eq!(
        (&stopped["type"], &stopped["to_version"]),
        (&json!("stop"), &json!(0))
    );

    let refused = async |what: &str, body: Value| {
        let reply = api
            .post(&format!("/v1/jobs/default/web/{what}"), body)
            .await;
        let (status, kind, _) = reply.problem();
        (status, kind)
    };
    assert_eq!(
        refused("rollback", json!({ "to_version": 9 })).await,
        (409, "no-such-version".into())
    );
    assert_eq!(
        refused("restart", json!({})).await,
        (409, "nothing-runs".into())
    );
    assert_eq!(
        refused("scale", json!({})).await,
        (422, "invalid-request".into())
    );
    assert_eq!(
        refused("scale", json!({ "replicas": 1_000_001 })).await,
        (422, "too-many-replicas".into())
    );
    for what in ["restart", "rollback", "stop", "scale"] {
        let path = format!("/v1/jobs/default/db/{what}");
        let body = if what == "scale" {
            json!({ "replicas": 1 })
        } else {
            json!({})
        };
        assert_eq!(api.post(&path, body).await.problem().0, 404, "{what}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_was_taken_back_is_not_rolled_out_again_unasked() {
    let mut server = Server::start().await;
    server.nodes(3, crate::harness::as_told).await;
    let api = &server.client;
    api.rolled_out(job("web", immediate(), json!({}))).await;
    let bad = || job("web", canary(), json!({ "fate": "bad" }));
    let id = api.register(bad()).await;
    let failed = api.until_state(&id, "failed").await;
    api.until_state(failed["rolled_back_by"].as_str().unwrap(), "completed")
        .await;
    let (status, kind, _) = api.post("/v1/jobs", bad()).await.problem();
    assert_eq!((status, kind.as_str()), (409, "taken-back"));
    let again = api.post("/v1/jobs?again=true", bad()).await;
    assert_eq!(again.status, 201, "{}", again.text());
    server.stop().await;
}

#[tokio::test]
async fn a_plan_is_what_then_happens() {
    let mut server = Server::start().await;
    server.nodes(5, well).await;
    let api = &server.client;
    api.rolled_out(job("web", immediate(), json!({ "v": 1 })))
        .await;

    let mut rollout = canary();
    rollout["auto_promote"] = json!(true);
    let document = job("web", rollout, json!({ "v": 2 }));
    let before = api.get("/v1/jobs/default/web").await.json();
    let key = [("idempotency-key", "planned")];
    let planned = api
        .post_with("/v1/jobs?dry_run=true", &key, document.clone())
        .await;
    assert_eq!(planned.status, 200, "{}", planned.text());
    let planned = planned.json();
    assert_eq!(api.get("/v1/jobs/default/web").await.json(), before);
    let changes = planned["changes"].as_array().unwrap();
    let config = changes
        .iter()
        .find(|c| c["pointer"] == "/config/v")
        .unwrap();
    assert_eq!((&config["from"], &config["to"]), (&json!(1), &json!(2)));
    assert!(changes.iter().any(|c| c["pointer"] == "/rollout/strategy"));

    let reply = api.post_with("/v1/jobs", &key, document).await;
    assert_eq!(
        reply.status,
        201,
        "the plan used no key up: {}",
        reply.text()
    );
    let id = reply.json()["deployment_id"].as_str().unwrap().to_owned();
    let done = api.until_state(&id, "completed").await;
    assert_eq!(planned["plan"]["type"], done["type"]);
    assert_eq!(planned["plan"]["from_version"], done["from_version"]);
    assert_eq!(planned["plan"]["to_version"], done["to_version"]);
    let targets = api
        .get(&format!("/v1/deployments/{id}/targets"))
        .await
        .json();
    let mut waves: Vec<Vec<String>> = Vec::new();
    for target in targets["targets"].as_array().unwrap() {
        let wave = target["wave"].as_u64().unwrap() as usize;
        waves.resize(waves.len().max(wave), Vec::new());
        waves[wave - 1].push(target["node"].as_str().unwrap().to_owned());
    }
    let planned: Vec<Vec<String>> = planned["plan"]["waves"]
        .as_array()
        .unwrap()
        .iter()
        .map(|wave| serde_json::from_value(wave["nodes"].clone()).unwrap())
        .collect();
    assert_eq!(planned, waves);

    // Of a job that there is not there is a plan too; and a guard guards it.
    let new = job("db", rolling(), json!({}));
    let plan = api.post("/v1/jobs?dry_run=true", new.clone()).await.json();
    let typed: schema::PlanResponse = serde_json::from_value(plan.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), plan);
    assert_eq!(plan["plan"]["type"], "create");
    assert_eq!(plan["changes"], json!([]));
    assert_eq!(api.get("/v1/jobs/default/db").await.status, 404);
    let guarded = api
        .post("/v1/jobs?dry_run=true&expected_version=3", new)
        .await;
    assert_eq!(guarded.problem().0, 412);
    server.stop().await;
}
